"""Restore the signal of a pruned network, and take it back if need be."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import nn
from torch.nn.parameter import is_lazy

from reflow_lightning.calibration.batchnorm import (
    Snapshot,
    batchnorm_layers,
    not_calibrated,
    population_statistics,
    write_statistics,
)
from reflow_lightning.running.batches import Batches, device_of
from reflow_lightning.running.forward import Forward, default_forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import together, warn
from reflow_lightning.running.sharding import whole


@dataclass(frozen=True)
class Calibration:
    """What a calibration did.

    Attributes:
        repaired: Names of the layers that were changed.
        skipped: Why other layers were left alone, by name.
        batches: Number of batches used.
        seconds: Time taken.
    """

    repaired: tuple[str, ...]
    skipped: Mapping[str, str]
    batches: int
    seconds: float
    _before: Snapshot | None = field(default=None, repr=False)

    def undo(self) -> None:
        """Put every changed value back, bit for bit."""
        if self._before is not None:
            self._before.restore()

    def settled(self) -> Calibration:
        """The same record, without the old values; its ``undo`` does nothing."""
        return replace(self, _before=None)


class Repair(Protocol):
    """Restores the signal of a model in place; leaves the model unchanged if it raises."""

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair ``model`` with ``batches`` that are on its device already."""


def repair_batchnorm(
    model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None = None
) -> Calibration:
    """REFLOW: population statistics for every BatchNorm layer. It needs no reference."""
    start = time.perf_counter()
    layers = batchnorm_layers(model)
    skipped = not_calibrated(model)
    if skipped:
        named = "; ".join(f"'{name}': {reason}" for name, reason in skipped.items())
        warn(f"calibrate left alone {named}", stacklevel=4)
    if not layers:
        warn(
            f"{type(model).__name__} has no BatchNorm layer with running statistics: nothing was repaired; "
            "fine-tune it after pruning, or prune less",
            stacklevel=4,
        )
        return Calibration((), skipped, 0, 0.0)
    for name, layer in layers.items():
        if is_lazy(layer.get_buffer("running_mean")):
            raise ValueError(f"layer '{name}' is not initialised yet: run one forward pass before calibrating")
    population = population_statistics(model, batches, forward)
    before = Snapshot(layers.values())
    repaired = write_statistics(model, population)
    unreached = {name: "no batch reached it" for name in layers if name not in repaired}
    if unreached:
        warn(f"calibrate left alone {', '.join(unreached)}: no batch reached them", stacklevel=4)
    return Calibration(repaired, skipped | unreached, population.batches, time.perf_counter() - start, before)


def repair_nothing(
    model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None = None
) -> Calibration:
    """No repair: the pruned network as it is, for comparison."""
    return Calibration((), {}, 0, 0.0)


REPAIRS: dict[str, Repair] = {"auto": repair_batchnorm, "batchnorm": repair_batchnorm, "none": repair_nothing}


def resolve_repair(repair: str | Repair) -> Repair:
    """Look a repair up by name; a callable is returned as it is.

    Raises:
        ValueError: If the name is unknown.
    """
    if callable(repair):
        return repair
    if repair not in REPAIRS:
        raise ValueError(f"repair={repair!r} is unknown: use one of {sorted(REPAIRS)} or a callable")
    return REPAIRS[repair]


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    repair: str | Repair = "auto",
    reference: nn.Module | None = None,
    max_batches: int = 50,
    forward: Forward | None = None,
    progress: bool = True,
) -> Calibration:
    """Bring back the signal of a pruned network without touching a weight (REFLOW, arXiv 2502.15790).

    BatchNorm layers get the population statistics of their inputs over the batches. No other value of the model, no
    training flag and no random state is changed. Where processes run together (`torch.distributed`), call it on all of
    them, each with its own batches or none: the statistics are those of the union, and if one fails, all raise. A model
    under `fully_shard` is held whole meanwhile.

    Args:
        model: Any module, on the device where it shall run.
        batches: Any iterable of batches, drawn and transformed as in training.
        repair: ``"auto"`` or ``"batchnorm"`` (the same today), ``"none"``, or a callable like `repair_batchnorm`.
        reference: The dense network, for a repair that compares with it; BatchNorm statistics need none.
        max_batches: At most so many batches.
        forward: ``(model, batch) -> anything`` for batches that the default does not understand. Default: the model on
            the first element of a tuple or list, on ``batch["x" | "image" | "input" | "pixel_values"]`` of a dict, else
            on the batch.
        progress: Show a bar in a terminal if it takes more than two seconds.

    Returns:
        What was done, with ``undo()``.

    Raises:
        ValueError: If there is no batch, or a layer gets NaN or infinite values. The model then is unchanged.
        TypeError: If the default forward fails on a batch.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> result = calibrate(model, [torch.randn(32, 4)], max_batches=1)
        >>> result.repaired, bool(model[1].running_mean.any())
        (('1',), True)
        >>> result.undo()
        >>> bool(model[1].running_mean.any())
        False
    """
    run = resolve_repair(repair)
    moved = Batches(batches, max_batches, device_of(model), task="calibration", progress=progress)
    with isolated_rng(), whole(model), together("calibration"):
        result = run(model, moved, forward or default_forward, reference)
    try:
        moved.check()
    except BaseException:
        result.undo()
        raise
    return result
