"""Optimal Brain Surgeon with a Fisher matrix of blocks: which weights go, and how the others make up for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reflow_lightning.pruning.criteria.blocks import blocks, constrained_steps, invert_, joined
from reflow_lightning.pruning.criteria.estimated import Estimated
from reflow_lightning.pruning.criteria.gradients import Gradients, batch_gradients, differentiable
from reflow_lightning.pruning.criteria.losses import Loss, label_loss
from reflow_lightning.pruning.criteria.protocols import Criterion
from reflow_lightning.pruning.criteria.registry import register_criterion
from reflow_lightning.pruning.criteria.sample_gradients import sample_gradients
from reflow_lightning.pruning.criteria.totals import Totals
from reflow_lightning.running.exact import exact
from reflow_lightning.running.forward import Forward


@dataclass(frozen=True)
class WoodFisher:
    """The criterion and the weight update of *WoodFisher* (arXiv 2004.14340).

    The matrix ``F = d I + 1/N sum g g'`` is taken in blocks of consecutive weights of a tensor, g being the gradient of
    the loss of a sample, or of a batch. The score of weight q is ``w_q^2 / (2 [F^-1]_qq)``: how much the
    loss grows, to second order, if q goes and the other weights of its block make up for it.

    The paper computes the inverse gradient by gradient with the Woodbury formula. Here the same matrix is summed up and
    inverted at the end, which costs no more memory, has no order, and adds up over processes. A weight that is
    zero already stays zero: it is left out of its block.

    Takes ``8 block`` bytes a weight, and time ``block^2`` a weight.

    Attributes:
        block: Weights of a block.
        damping: What is added to the diagonal, d, as a multiple of the mean of all elements there. So the scale of the
            loss and the kind of gradients do not matter, unlike with the paper's fixed 1e-5. A few hundred gradients
            leave many directions of a block without any, where a small d lets the weight update go astray; a very large
            d ranks by magnitude.
        gradients: ``"sample"``: of every single sample, so that the scores do not depend on how these are split into
            batches. ``"batch"``: of the mean loss of every batch, which takes one backward pass a batch; the paper's
            mini-batches.
        loss: ``(output, batch) -> scalar``. Default: `label_loss`, a cross entropy or the model's own.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> batch = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> found = WoodFisher(block=3).estimate(model, {"weight": model.weight}, [batch], lambda m, b: m(b[0]))
        >>> found("weight", model.weight).shape
        torch.Size([2, 3])
        >>> masks = {"weight": torch.tensor([[True, False, True], [True, True, True]])}
        >>> bool(found.compensate(masks)["weight"][1].any())  # another block, where nothing goes
        False
    """

    block: int = 64
    damping: float = 1.0
    gradients: Literal["sample", "batch"] = "sample"
    loss: Loss = field(default=label_loss, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 1:
            raise ValueError(f"block={self.block!r} must be a whole number of at least 1: so many weights of a block")
        if not self.damping > 0:
            raise ValueError(f"damping={self.damping!r} must be positive, such as 1.0, or F can't be inverted")
        if self.gradients not in ("sample", "batch"):
            raise ValueError(f"gradients={self.gradients!r} is unknown: use 'sample' or 'batch'")

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Criterion:
        """See `DataCriterion`.

        Raises:
            ValueError: If gradients are NaN or infinite, or none reaches a weight; see `Reach`.
        """
        sizes = {name: min(self.block, max(1, weight.numel())) for name, weight in weights.items()}
        shapes = {n: (*blocks(w.flatten(), sizes[n]).shape, sizes[n]) for n, w in weights.items()}
        with differentiable(model, weights) as parameters:
            totals = Totals(shapes, like=weights)
            nonzero = {name: weight != 0 for name, weight in weights.items()}
            for count, gradients in self._rows(model, parameters, batches, forward):
                for name, rows in gradients.items():
                    parts = blocks(exact(rows * nonzero[name]).flatten(1), sizes[name]).transpose(0, 1)
                    totals.sums[name].baddbmm_(parts.mT, parts)  # adds the products of all pairs within each block
                totals.add({}, samples=count)
        inverses = totals.means()
        trace = sum(float(fisher.diagonal(dim1=1, dim2=2).sum()) for fisher in inverses.values())
        damping = self.damping * (trace / max(1, sum(int(mark.sum()) for mark in nonzero.values())) or 1.0)
        for name, fisher in inverses.items():
            if not torch.isfinite(fisher).all():
                raise ValueError(f"{self} got NaN or infinite gradients for '{name}': look at the batches and the loss")
            fisher.diagonal(dim1=1, dim2=2).add_(damping)
            invert_(fisher)
        values = {name: exact(weight) for name, weight in weights.items()}
        scores = {
            name: value.square() / (2 * joined(inverses[name].diagonal(dim1=1, dim2=2), like=value))
            for name, value in values.items()
        }
        return EstimatedWoodFisher(self, scores, values, inverses)

    def _rows(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Iterable[Any], forward: Forward
    ) -> Iterator[tuple[int, Gradients]]:
        """How many gradients, and they, of shape (k, *shape of the weight)."""
        if self.gradients == "sample":
            yield from sample_gradients(model, parameters, batches, forward, self.loss)
            return
        for _, gradients in batch_gradients(model, parameters, batches, forward, self.loss):
            yield 1, {name: gradient[None] for name, gradient in gradients.items()}


@dataclass(frozen=True)
class EstimatedWoodFisher(Estimated):
    """Scores of `WoodFisher`, with what its weight update takes.

    Attributes:
        weights: The weights that they belong to, in float64.
        inverses: Inverse blocks of the Fisher matrix by parameter name, each of shape (blocks, size, size).
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    inverses: Mapping[str, Tensor] = field(repr=False)

    def compensate(self, masks: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """The change of the weights that stay which, to second order, costs the least loss, given those that go.

        Within each block, with Q all of its weights that go and ``H = F^-1``, it is ``-H[:, Q] H[Q, Q]^-1 w_Q``: the
        exact minimum for all of them together. The paper sums the updates for one weight each,
        ``-w_q H[:, q] / H_qq``, which is the same only where the weights that go do not interact.

        Args:
            masks: True where a weight stays, by parameter name.

        Returns:
            Float64 tensors of the weights' shapes by name; zero where a weight goes, or was zero.
        """
        changes = {}
        for name, mask in masks.items():
            weight, inverse = self.weights[name], self.inverses[name]
            kept = mask.to(weight.device)
            size = inverse.shape[-1]
            goes, values = blocks((~kept).flatten(), size), blocks(weight.flatten(), size)
            change = joined(constrained_steps(inverse, goes, -values), like=weight)
            changes[name] = change * (kept & (weight != 0))
        return changes


register_criterion("woodfisher", WoodFisher())
