"""Criteria by name."""

from __future__ import annotations

from reflow_lightning.pruning.criteria.fisher import Fisher
from reflow_lightning.pruning.criteria.protocols import Criterion, DataCriterion, Magnitude, Random
from reflow_lightning.pruning.criteria.snip import Snip
from reflow_lightning.pruning.criteria.taylor import Taylor
from reflow_lightning.pruning.criteria.wanda import Wanda
from reflow_lightning.pruning.criteria.woodfisher import WoodFisher

CRITERIA: dict[str, Criterion | DataCriterion] = {
    "magnitude": Magnitude(),
    "random": Random(),
    "fisher": Fisher(),
    "taylor": Taylor(),
    "snip": Snip(),
    "wanda": Wanda(),
    "woodfisher": WoodFisher(),
}


def resolve_criterion(criterion: str | Criterion | DataCriterion) -> Criterion | DataCriterion:
    """Look a criterion up by name; any other is returned as it is.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> resolve_criterion("magnitude"), resolve_criterion("fisher")
        (Magnitude(), Fisher())
    """
    if callable(criterion) or isinstance(criterion, DataCriterion):
        return criterion
    if criterion not in CRITERIA:
        raise ValueError(
            f"criterion={criterion!r} is unknown: use one of {sorted(CRITERIA)}, a callable, or an object with estimate"
        )
    return CRITERIA[criterion]
