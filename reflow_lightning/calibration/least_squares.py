"""Ridge regression of the weights that survive, row by row, from sums that are gathered batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from reflow_lightning.running.processes import total

_ROUNDING = 1e-11
"""A variance of so much less than the mean square is what float32 leaves of a constant."""

_ELEMENTS = 1 << 22  # of the systems that are solved at once: bounds the memory


class Sums(NamedTuple):
    """Products summed over samples, in float64, by group.

    Attributes:
        gram: ``x' x``, of shape (groups, K, K).
        products: ``x' y``, of shape (groups, K, O).
        mean_x: Means that were taken off x before, of shape (groups, 1, K); zero if none were.
        mean_y: The same for y, of shape (groups, 1, O).
    """

    gram: Tensor
    products: Tensor
    mean_x: Tensor
    mean_y: Tensor


class Normals:
    """The normal equations of ``y = x W' + b``, summed over samples batch by batch.

    Memory depends on the number of inputs and outputs alone.

    Args:
        groups: Groups with equations of their own.
        inputs: Number of inputs K of a group.
        outputs: Number of outputs O of a group.
        device: Where the sums are kept, in float64.

    Attributes:
        sums: Products of (1, x) with (1, x, y), of shape (groups, 1 + K, 1 + K + O); x with 1 is not filled.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, device: torch.device) -> None:
        self.inputs = inputs
        self.sums = torch.zeros(groups, 1 + inputs, 1 + inputs + outputs, dtype=torch.float64, device=device)

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in samples: x of shape (groups, samples, K), y of shape (groups, samples, O)."""
        if not x.shape[1]:
            return
        k, blocks = 1 + self.inputs, self.sums
        blocks[:, 0, 0] += x.shape[1]
        # Products are taken of deviations from an origin, so that a large mean costs no digits of the variance.
        (x, of_x, sum_x), of_y = (_deviations(values, blocks) for values in (x, y))
        for (values, origin, sums), columns in (((x, of_x, sum_x), slice(1, k)), (of_y, slice(k, None))):
            totals = sums + x.shape[1] * origin
            blocks[:, :1, columns] += totals
            blocks[:, 1:, columns] += x.transpose(1, 2) @ values
            blocks[:, 1:, columns] += of_x.transpose(1, 2) @ totals + sum_x.transpose(1, 2) @ origin

    def add(self, products: Tensor) -> None:
        """Add sums that were gathered elsewhere, of the shape of ``sums``."""
        self.sums += products.to(self.sums)

    def merge(self) -> None:
        """Add the sums of all processes, which must call this together."""
        self.sums = total(self.sums)

    def compute(self, centred: bool) -> Sums:
        """The sums, of deviations from the means if a constant is to be fitted too.

        An input that is constant apart from rounding explains nothing then. It counts as zero, so that nothing is
        fitted to the noise that is left of it.

        Example:
            >>> normals = Normals(1, 1, 1, torch.device("cpu"))
            >>> normals.update(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.0], [4.0]]]))
            >>> normals.compute(centred=True).products.item(), normals.compute(centred=False).products.item()
            (4.0, 12.0)
        """
        k = self.inputs
        count = self.sums[:, :1, :1]
        mean = self.sums[:, :1, 1:] / count.clamp(min=1.0) * float(centred)
        # In place where it can be: the equations of a wide layer take more memory than its weights.
        products = torch.baddbmm(self.sums[:, 1:, 1:], mean[..., :k].transpose(1, 2) * -count, mean)
        if centred:
            mean_square = self.sums[:, 1:, 1 : k + 1].diagonal(dim1=1, dim2=2)
            varies = products[..., :k].diagonal(dim1=1, dim2=2) > _ROUNDING * mean_square
            products[..., :k] *= varies[:, None, :]
            products *= varies[:, :, None]
        gram, products = products[..., :k], products[..., k:]
        return Sums(gram, products, mean[..., :k], mean[..., k:])


def _deviations(values: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations of (groups, samples, K) from about their mean, and in the type of `like` that origin and their sum."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    origin = values.mean(1, keepdim=True)
    deviations = values - origin
    return deviations, origin.to(like), deviations.sum(1, keepdim=True).to(like)


def ridge(gram: Tensor, products: Tensor, kept: Tensor, strength: float) -> Tensor:
    """The change of the kept weights that explains most of a residual, row by row.

    Minimises ``sum |residual - x change'|^2 + penalty |change|^2`` where change is zero off ``kept``; the penalty is
    ``strength`` times the mean of the Gram matrix's diagonal. Being a change, it is drawn towards the old weights.

    Args:
        gram: ``x' x``, of shape (K, K).
        products: ``x' residual``, of shape (K, O).
        kept: Bool tensor of shape (O, K).
        strength: Relative strength of the ridge.

    Returns:
        Tensor of shape (O, K), in float64.

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> y, kept = torch.tensor([[2.0], [4.0]]), torch.tensor([[True, False]])
        >>> ridge(x.T @ x, x.T @ y, kept, strength=0.0).round(decimals=4).tolist()
        [[3.0, 0.0]]
    """
    change = torch.zeros(kept.shape, dtype=torch.float64, device=gram.device)
    for groups, rows in solved_at_once(kept[None]):
        change[rows] = ridge_at_once(gram[None], groups, products.T[rows], kept[rows], strength)
    return change


def solved_at_once(kept: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of a weight in sets: each set has one mask and one group, or masks of a similar size.

    A depthwise convolution has as many groups as channels, of one row each; so a set may have rows of many groups.

    Args:
        kept: Bool tensor of shape (groups, O, K).

    Yields:
        Groups of rows, and their places within these, of the same length. A row that keeps nothing is in no set.

    Example:
        >>> kept = torch.tensor([[[True, True], [True, False], [False, False], [True, True]]])
        >>> [rows.tolist() for _, rows in solved_at_once(kept)]
        [[0, 3], [1]]
    """
    single = kept.any(2)
    for group, of_group in enumerate(kept) if kept.shape[1] > 1 else ():
        masks, which, counts = torch.unique(of_group, dim=0, return_inverse=True, return_counts=True)
        for mask in torch.nonzero(counts > 1).flatten():  # rows of one mask, such as all dense rows, share a system
            rows = torch.nonzero(which == mask).flatten()
            single[group, rows] = False
            if bool(masks[mask].any()):
                yield torch.full_like(rows, group), rows
    groups, rows = torch.nonzero(single, as_tuple=True)
    for chosen in _of_like_size(kept[groups, rows].sum(1)):
        yield groups[chosen], rows[chosen]


def ridge_at_once(gram: Tensor, groups: Tensor, products: Tensor, kept: Tensor, strength: float) -> Tensor:
    """What `ridge` gives for the rows of one set of `solved_at_once`.

    Args:
        gram: ``x' x`` of all groups, of shape (groups, K, K).
        groups: The group of each row.
        products: ``x' residual`` of each row, of shape (rows, K).
        kept: Bool tensor of that shape.
        strength: Relative strength of the ridge.
    """
    gram, products = gram.double(), products.double()
    penalty = strength * gram.diagonal(dim1=1, dim2=2).mean(1)[groups]
    change = torch.zeros(kept.shape, dtype=torch.float64, device=gram.device)
    if len(kept) > 1 and bool(((kept == kept[:1]).all(1) & (groups == groups[0])).all()):
        columns = torch.nonzero(kept[0]).flatten()
        system = gram[groups[0], columns[:, None], columns] + penalty[0] * torch.eye(len(columns)).to(gram)
        change[:, columns] = _solve(system[None], products[:, columns].T[None])[0].T
        return change
    # Each row's kept columns, filled up with columns that are made unit vectors below.
    columns = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(kept.sum(1).max())]
    real = kept.gather(1, columns)
    both = real[:, :, None] & real[:, None, :]
    systems = torch.where(both, gram[groups[:, None, None], columns[:, :, None], columns[:, None, :]], 0.0)
    systems.diagonal(dim1=1, dim2=2).add_(torch.where(real, penalty[:, None], 1.0))
    wanted = torch.where(real, products.gather(1, columns), 0.0)
    solved = torch.where(real, _solve(systems, wanted[..., None])[..., 0], 0.0)
    return change.scatter(1, columns, solved)


def _solve(systems: Tensor, wanted: Tensor) -> Tensor:
    """Solve symmetric systems; those that are singular, as where inputs are constant, in the least norm."""
    factor, failed = torch.linalg.cholesky_ex(systems)
    if not bool(failed.any()):
        return torch.cholesky_solve(wanted, factor)
    inverse: Tensor = torch.linalg.pinv(systems, hermitian=True)
    return inverse @ wanted


def _of_like_size(sizes: Tensor) -> Iterator[Tensor]:
    """Rows in groups of similar size, each small enough to be solved at once."""
    order = sizes.argsort(descending=True)
    start = 0
    while start < len(order):
        width = max(1, int(sizes[order[start]]))
        step = max(1, _ELEMENTS // width**2)
        yield order[start : start + step]
        start += step
