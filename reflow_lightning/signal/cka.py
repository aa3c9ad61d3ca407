"""Linear CKA: whether two networks tell the same samples apart, however they turn and scale their channels."""

from __future__ import annotations

from functools import partial, reduce
from types import MappingProxyType

import torch
from torch import Tensor

from reflow_lightning.running.exact import as_exact
from reflow_lightning.signal.statistic import Statistic

_WIDEST = 512  # 8 MiB of state a layer


def gram(values: Tensor) -> Tensor:
    """Number of samples, mean and Gram matrix of the centred columns, in float64.

    Args:
        values: Shape (N, D).

    Returns:
        Tensor of shape (2 + D, D): N in every place of the first row, the means in the second, the matrix below.

    Example:
        >>> gram(torch.tensor([[1.0, 0.0], [3.0, 2.0]])).tolist()
        [[2.0, 2.0], [2.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    """
    exact = as_exact(values)
    mean = exact.sum(0) / max(1, len(exact))
    centred = exact - mean
    return torch.cat([torch.full_like(mean, len(exact))[None], mean[None], centred.T @ centred])


def merge_grams(one: Tensor, other: Tensor) -> Tensor:
    """The `gram` of disjoint data together; their means may differ.

    Example:
        >>> one, other = gram(torch.tensor([[1.0]])), gram(torch.tensor([[3.0]]))
        >>> merge_grams(one, other).flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    total = one[0] + other[0]
    share = other[0] / total.clamp(min=1)
    shift = other[1] - one[1]
    matrix = one[2:] + other[2:] + torch.outer(one[0] * share * shift, shift)
    return torch.cat([total[None], (one[1] + share * shift)[None], matrix])


def linear_cka(joint: Tensor) -> Tensor:
    """Linear CKA from the joint `gram` of both networks' activations, and 0 where one of them is constant.

    Args:
        joint: Shape (2 + 2 C, 2 C); one network's channels come before the other's.

    Example:
        >>> values = torch.randn(9, 3)
        >>> round(linear_cka(gram(torch.cat([values, -2 * values.flip(1)], dim=1))).item(), 6)
        1.0
    """
    channels = joint.shape[1] // 2
    matrix = joint[2:]
    shared = matrix[:channels, channels:].square().sum()
    scale = matrix[:channels, :channels].norm() * matrix[channels:, channels:].norm()
    return torch.where(scale == 0, 0.0, shared / scale.clamp(min=1e-300))  # NaN stays NaN


class LinearCKA(Statistic[Tensor]):
    """Streaming linear CKA between a layer's activations in two networks, given the same inputs (arXiv 1905.00414).

    With A and B the activations pooled over positions, each of shape (N, C), their columns centred over all samples:
    ``norm(B'A)^2 / (norm(A'A) norm(B'B))``, in Frobenius norms. It is 1 if B is A turned and scaled, and 0 if
    nothing in one goes linearly with the other. With fewer samples than a few times C it comes out too high.

    The state has at most ``(2 + 2 C) 2 C`` float64 values for any number of samples, and a quarter of that for
    samples that wait until there are enough of them to be multiplied at once; few samples take little. To bound it for
    wide layers, 512 channels, spread evenly, stand for all of a wider one: the same in both networks, so that equal
    ones still give 1.

    Args:
        channels: Number of channels.
        widest: Number of channels that are compared at most.

    Example:
        >>> statistic = LinearCKA(channels=2)
        >>> values = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> statistic.update(values, 3 * values.flip(1))
        >>> round(statistic.compute().item(), 6)
        1.0
    """

    merges = MappingProxyType({"state": partial(reduce, merge_grams), "rows": torch.cat})
    higher_is_better = True
    state: Tensor
    rows: Tensor

    def __init__(self, channels: int, widest: int = _WIDEST) -> None:
        self.compared = torch.linspace(0, channels - 1, min(channels, widest)).round().long()
        width = 2 * len(self.compared)
        empty = torch.zeros((), dtype=torch.float64)  # expanded, so that it takes no memory
        super().__init__(channels, state=empty.expand(2 + width, width), rows=torch.zeros(0, width).double())

    def update(self, values: Tensor, reference: Tensor) -> None:
        """Take in the pooled activations of both networks, of shape (N, C)."""
        if self.channels > len(self.compared):
            chosen = self.compared.to(values.device)
            values, reference = values[:, chosen], reference[:, chosen]
        exact = as_exact(torch.cat([values, reference], dim=1))
        self.rows = torch.cat([self.rows, exact.to(self.rows.device)])
        self.work_off()

    def work_off(self) -> None:
        """Multiply the samples that wait, once there are enough."""
        if len(self.rows) >= self.rows.shape[1] / 4:
            self.state, self.rows = self._all(), self.rows[:0].clone()

    def value(self) -> Tensor:
        """The CKA, in [0, 1]."""
        return linear_cka(self._all())

    def _all(self) -> Tensor:
        return merge_grams(self.state, gram(self.rows))
