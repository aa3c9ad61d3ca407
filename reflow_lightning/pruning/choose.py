"""What pruning decides: which weights go, and how the others make up for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.pruning.allocate import allocate
from reflow_lightning.pruning.allocations.protocols import Allocation
from reflow_lightning.pruning.allocations.registry import resolve_allocation
from reflow_lightning.pruning.checks import check_model, in_step, kept_in_all, pattern_dims
from reflow_lightning.pruning.criteria.protocols import Compensating, Criterion
from reflow_lightning.pruning.criteria.registry import resolve_criterion
from reflow_lightning.pruning.estimate import Reading, Role, estimated
from reflow_lightning.pruning.floors import least_kept
from reflow_lightning.pruning.masks import Masks
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.ranking import cut_mask
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.pruning.shards import Part, part_like, part_of, spread_like
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.processes import warn

_SCORING = Role[Criterion]("criterion", "scoring", "'magnitude' or 'random'")
_ALLOCATION = Role[Allocation]("allocation", "allocation", "'global', 'uniform' or 'erk'")


@dataclass(frozen=True)
class Choice:
    """A pruning that is decided and not done yet.

    Attributes:
        masks: Which weights stay.
        changes: What is added to the weights that stay, by parameter name; empty for most criteria.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> masks = Masks({"weight": torch.tensor([[True, False]])})
        >>> before = layer.weight[0, 0].item()
        >>> Choice(masks, {"weight": torch.tensor([[1.0, 0.0]])}).apply(layer)
        >>> round(layer.weight[0, 0].item() - before, 5), layer.weight[0, 1].item()
        (1.0, 0.0)
    """

    masks: Masks
    changes: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Change the weights of a model in place and set those to zero that go.

        Raises:
            ValueError: If the masks do not fit the model, which then is unchanged.
        """
        parameters = dict(zip(self.masks, self.masks.parameters(model), strict=True))
        for name, change in self.changes.items():
            parameter = parameters[name]
            parameter.copy_(parameter.to(change) + change)
        self.masks.apply(model)


@torch.no_grad()
def choose(
    model: nn.Module,
    sparsity: float,
    spec: PruneSpec,
    *,
    previous: Mapping[str, Tensor] | None = None,
    batches: Iterable[Any] | None = None,
    max_batches: Limit = 50,
    forward: Forward | None = None,
    progress: bool = False,
) -> Choice:
    """Choose the weights that go, and how the others change, and do nothing yet.

    Args:
        model: Any module.
        sparsity: Fraction of the selected weights that are zero then.
        spec: Which weights are selected, and how they are chosen.
        previous: The masks of an earlier pruning of the same selection: what they pruned goes first, so that it stays
            pruned. By default that is every weight that is zero.
        batches: See `prune`, as for the next three.
        max_batches: At most so many batches.
        forward: Runs the model on a batch.
        progress: Show a bar.

    Raises:
        ValueError: If an argument is out of range, or the criterion or the allocation needs data and gets none.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> batch = (torch.randn(8, 4), torch.randint(2, (8,)))
        >>> choose(layer, 0.5, PruneSpec(criterion="fisher"), batches=[batch], max_batches=1).masks
        Masks(1 tensors, 8 weights, 0.5000 pruned)
    """
    selected = check_model(model, sparsity, spec)
    reading = Reading(batches=batches, max_batches=max_batches, forward=forward, progress=progress)
    score = estimated(resolve_criterion(spec.criterion), _SCORING, model, selected, reading)
    allocation = estimated(resolve_allocation(spec.allocation), _ALLOCATION, model, selected, reading)
    with in_step(selected, "choosing the weights"):
        keep = kept_in_all(selected, sparsity)
        parts = {name: part_of(name, weight) for name, weight in selected.items()}
        scores = {n: Scores(n, p.values, score, _pruned(n, p, previous), part=p) for n, p in parts.items()}
        if spec.pattern is not None:
            parsed = Pattern.parse(spec.pattern)
            dims = pattern_dims(model, scores)
            scores = {name: s.without(parsed.outside(s, dims[name])) for name, s in scores.items()}
        total = sum(weight.numel() for weight in selected.values())
        floors = least_kept(total, {name: s.most for name, s in scores.items()}, spec.min_kept, keep)
        cuts = allocate(scores, keep, allocation, floors)
        empty = [name for (name, s), cut in zip(scores.items(), cuts, strict=True) if s.size and not cut.kept]
        if empty:
            warn(
                f"sparsity={sparsity} leaves no weight in {', '.join(empty)}: no signal passes, but by a shortcut; "
                f"min_kept={max(0.002, math.ceil(1e6 / total) / 1e6):g} would keep some in each layer",
            )
        masks = {name: cut_mask(s, cut) for (name, s), cut in zip(scores.items(), cuts, strict=True)}
        changes = score.compensate(masks) if isinstance(score, Compensating) else {}
        return Choice(Masks({name: spread_like(selected[name], mask) for name, mask in masks.items()}), changes)


def _pruned(name: str, part: Part, previous: Mapping[str, Tensor] | None) -> Tensor | None:
    if previous is None:
        return None
    if name not in previous:
        raise ValueError(f"previous holds no mask for '{name}': pass masks of the same selection")
    return ~part_like(part, previous[name])
