"""From a criterion that needs data to the scores that it finds on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from reflow_lightning.pruning.criteria import Criterion, DataCriterion
from reflow_lightning.pruning.resolve import resolve_criterion
from reflow_lightning.running.batches import Batches, Limit, device_of
from reflow_lightning.running.forward import Forward, default_forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import sharded_modules


def estimated(
    criterion: str | Criterion | DataCriterion,
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable[Any] | None,
    *,
    max_batches: Limit = 50,
    forward: Forward | None = None,
    progress: bool = False,
) -> Criterion:
    """The scores that a criterion finds on batches; one that needs none is returned as it is.

    The model, its gradients and the random state are left as they are. Where processes run together, call it on all of
    them, each with its own batches or none; if one fails, all raise.

    Args:
        criterion: A name or a criterion.
        model: Any module.
        weights: The weights to be scored, by parameter name.
        batches: Any iterable of batches. ``None``: there are none.
        max_batches: At most so many; ``"auto"`` stands for 200, of all processes together.
        forward: See `reflow_lightning.calibrate`.
        progress: Show a bar in a terminal if it takes more than two seconds.

    Raises:
        ValueError: If the criterion asks for batches and there are none, or the model is under `fully_shard`.

    Example:
        >>> estimated("magnitude", nn.Linear(2, 1), {}, None)
        Magnitude()
    """
    resolved = resolve_criterion(criterion)
    if not isinstance(resolved, DataCriterion):
        return resolved
    if sharded_modules(model):
        raise ValueError(
            f"criterion {resolved} needs whole weights, but fully_shard has spread those of {type(model).__name__} "
            "over processes: prune before you shard it, or use 'magnitude' or 'random'"
        )
    given = _Missing(resolved) if batches is None else batches
    moved = Batches(given, max_batches, device_of(model), task="scoring", progress=progress)
    with isolated_rng(), together("scoring"):
        found = resolved.estimate(model, weights, moved, forward or default_forward)
    moved.check()
    return found


class _Missing:
    """Batches that a criterion may ask for in vain."""

    def __init__(self, criterion: DataCriterion) -> None:
        self.criterion = criterion

    def __iter__(self) -> Iterator[Any]:
        raise ValueError(
            f"criterion {self.criterion} needs data, but batches=None: pass batches=loader, drawn and transformed as "
            "in training, or use 'magnitude' or 'random'"
        )
