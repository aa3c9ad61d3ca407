"""From criteria and allocations that need data to what they find on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from reflow_lightning.pruning.allocation import Allocation, DataAllocation, resolve_allocation
from reflow_lightning.pruning.criteria.protocols import Criterion, DataCriterion
from reflow_lightning.pruning.criteria.resolve import resolve_criterion
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
    refusal = _Refusal(f"criterion {resolved}", "'magnitude' or 'random'")
    return _on_batches(resolved, refusal, "scoring", model, weights, batches, max_batches, forward, progress)


def estimated_allocation(
    allocation: str | Allocation | DataAllocation,
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable[Any] | None,
    *,
    max_batches: Limit = 50,
    forward: Forward | None = None,
    progress: bool = False,
) -> Allocation | None:
    """The allocation that one finds on batches; one that needs none is returned as it is, the global ranking as None.

    See `estimated`.

    Example:
        >>> estimated_allocation("global", nn.Linear(2, 1), {}, None) is None
        True
    """
    resolved = resolve_allocation(allocation)
    if not isinstance(resolved, DataAllocation):
        return resolved
    refusal = _Refusal(f"allocation {resolved}", "'global', 'uniform' or 'erk'")
    return _on_batches(resolved, refusal, "allocation", model, weights, batches, max_batches, forward, progress)


Found = TypeVar("Found", covariant=True)


class _Estimator(Protocol[Found]):
    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Found: ...


def _on_batches(
    estimator: _Estimator[Found],
    refusal: _Refusal,
    task: str,
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable[Any] | None,
    max_batches: Limit,
    forward: Forward | None,
    progress: bool,
) -> Found:
    if sharded_modules(model):
        raise ValueError(
            f"{refusal.subject} needs whole weights, but fully_shard has spread those of {type(model).__name__} "
            f"over processes: prune before you shard it, or use {refusal.others}"
        )
    moved = Batches(
        refusal if batches is None else batches, max_batches, device_of(model), task=task, progress=progress
    )
    with isolated_rng(), together(task):
        found = estimator.estimate(model, weights, moved, forward or default_forward)
    moved.check()
    return found


class _Refusal:
    """Batches that may be asked for in vain."""

    def __init__(self, subject: str, others: str) -> None:
        self.subject = subject
        self.others = others

    def __iter__(self) -> Iterator[Any]:
        raise ValueError(
            f"{self.subject} needs data, but batches=None: pass batches=loader, drawn and transformed as in training, "
            f"or use {self.others}"
        )
