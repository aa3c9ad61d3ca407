"""Comparison of weights within each output only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from reflow_lightning.layers import Inventory, Weight
from reflow_lightning.pruning.criteria.protocols import AnyCriterion, Compensating, Criterion, DataCriterion
from reflow_lightning.pruning.criteria.registry import resolve_criterion
from reflow_lightning.pruning.criteria.scoring import scores_of
from reflow_lightning.pruning.kinds import check_found
from reflow_lightning.running.declared import says
from reflow_lightning.running.forward import Forward


@dataclass(frozen=True)
class PerOutput:
    """Any criterion, but each weight is compared only with the other weights of the same output of its layer.

    The score is the place of the weight in its row, from ``1/n`` for the lowest of n to 1. So one ranking over all
    tensors prunes every row of every tensor by the same share, as nearly as whole numbers allow: the comparison group
    of *Wanda* (arXiv 2306.11695). Of equal scores the first by position is the lower.

    A row is what makes one output: a first index of the weight, but the second one where the outputs lie along the
    second dimension, as in a transposed convolution, and both in a stack of matrices.

    Attributes:
        criterion: A name or a criterion. Batches are needed only if this criterion needs them.

    Example:
        >>> from reflow_lightning.pruning import prune
        >>> layer = nn.Linear(4, 2)
        >>> prune(layer, 0.5, criterion=PerOutput("magnitude"))["weight"].sum(1)
        tensor([2, 2])
    """

    criterion: AnyCriterion = "wanda"

    def __post_init__(self) -> None:
        resolve_criterion(self.criterion)

    def unit_by_unit(self) -> bool:
        """Whether the criterion needs a network that is whole one unit at a time only; see `NeedsData`."""
        return says(resolve_criterion(self.criterion), "unit_by_unit")

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Criterion:
        """See `DataCriterion`."""
        criterion = resolve_criterion(self.criterion)
        if isinstance(criterion, DataCriterion):
            found = criterion.estimate(model, weights, batches, forward)
            check_found("criterion", criterion, found, "(name, weight) -> scores")
            criterion = found
        return within_outputs(model, weights, criterion)


def within_outputs(model: nn.Module, weights: Iterable[str], criterion: Criterion) -> Places:
    """The places of a criterion's scores within each output of a model's layers.

    Args:
        model: The model.
        weights: Names of the parameters that are scored.
        criterion: Gives the scores.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    known = {id(owned.parameter): owned.weight for owned in Inventory.of(model).weights.values()}
    return Places(criterion, {name: known[id(named[name])] for name in weights if id(named[name]) in known})


@dataclass(frozen=True)
class Places:
    """The places of a criterion's scores within each row.

    Attributes:
        criterion: Gives the scores.
        known: What is known of the weights; of others the outputs lie along the first dimension.
    """

    criterion: Criterion
    known: Mapping[str, Weight] = field(default_factory=dict)

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""
        scores = scores_of(self.criterion, name, weight)
        kind = self.known.get(name, Weight(name))
        if kind.stacked:
            rows = scores.movedim(kind.inputs, -1)
            return _places(rows.flatten(0, 1)).view(rows.shape).movedim(-1, kind.inputs)
        if kind.outputs == 0:
            return _places(scores if scores.ndim > 1 else scores[None]).view(scores.shape)
        by_group = scores.reshape(kind.groups, -1, *scores.shape[1:])  # (groups, inputs, outputs, ...)
        by_output = by_group.transpose(1, 2)
        return _places(by_output.flatten(0, 1)).view(by_output.shape).transpose(1, 2).reshape(scores.shape)

    def repeatable(self) -> bool:
        """Whether the criterion gives the same scores each time, at little cost; see `Criterion`."""
        return says(self.criterion, "repeatable")

    def compensate(self, masks: Mapping[str, Tensor], /) -> Mapping[str, Tensor]:
        """What the criterion itself would change; nothing if it does not compensate."""
        return self.criterion.compensate(masks) if isinstance(self.criterion, Compensating) else {}


def _places(scores: Tensor) -> Tensor:
    """The place of each score in its row, divided by the length of the row."""
    rows = scores.reshape(len(scores), -1)
    places = rows.argsort(dim=1, stable=True).argsort(dim=1) + 1
    return places.double() / max(1, rows.shape[1])
