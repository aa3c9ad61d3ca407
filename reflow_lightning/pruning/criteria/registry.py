"""Criteria by name."""

from __future__ import annotations

from reflow_lightning.pruning.criteria.protocols import AnyCriterion, Criterion, DataCriterion
from reflow_lightning.pruning.kinds import check_kind
from reflow_lightning.running.registry import Registry


def _check(_: str, criterion: Criterion | DataCriterion) -> None:
    check_kind("criterion", criterion, "(name, weight) -> scores")


CRITERIA = Registry[Criterion | DataCriterion]("criterion", _check)
"""Every criterion that has a name."""


def register_criterion(name: str, criterion: Criterion | DataCriterion) -> None:
    """Give a criterion a name, by which `prune`, `Reflow`, `PerOutput` and the app's configuration find it.

    Args:
        name: The name.
        criterion: A callable ``(name, weight) -> scores``, or a `DataCriterion`. It may also stream its scores
            (`StreamedCriterion`), say that none is negative, and change the weights that stay (`Compensating`): what it
            can do is seen from its methods.

    Raises:
        ValueError: If the name is taken, or the criterion is none. Nothing is registered then.

    Example:
        >>> import torch
        >>> from reflow_lightning.pruning import prune
        >>> register_criterion("smallest_stay", lambda name, weight: -weight.abs())
        >>> prune(torch.nn.Linear(4, 4), 0.5, criterion="smallest_stay")
        Masks(1 tensors, 16 weights, 0.5000 pruned)
    """
    CRITERIA.register(name, criterion)


def resolve_criterion(criterion: AnyCriterion) -> Criterion | DataCriterion:
    """Look a criterion up by name; any other is returned as it is.

    Raises:
        ValueError: If the name is unknown, or it is no criterion.

    Example:
        >>> from reflow_lightning.pruning import Random
        >>> resolve_criterion("magnitude"), resolve_criterion(Random(seed=1))
        (Magnitude(), Random(seed=1))
    """
    if isinstance(criterion, str):
        return CRITERIA.named(criterion, ", a callable, or an object with estimate")
    _check("", criterion)
    return criterion
