"""Which criteria take gradients of a loss, and which loss it is."""

from __future__ import annotations

from reflow_lightning.pruning.criteria.gradient_criterion import GradientCriterion
from reflow_lightning.pruning.criteria.losses import Loss
from reflow_lightning.pruning.criteria.per_output import PerOutput
from reflow_lightning.pruning.criteria.protocols import AnyCriterion
from reflow_lightning.pruning.criteria.registry import resolve_criterion
from reflow_lightning.pruning.criteria.woodfisher import WoodFisher


def loss_needed(criterion: AnyCriterion) -> Loss | None:
    """The loss whose gradients a criterion of this package takes; ``None`` if it takes none.

    Example:
        >>> loss_needed("taylor").__name__, loss_needed("magnitude")
        ('label_loss', None)
    """
    resolved = resolve_criterion(criterion)
    if isinstance(resolved, PerOutput):
        return loss_needed(resolved.criterion)
    return resolved.loss if isinstance(resolved, (GradientCriterion, WoodFisher)) else None
