"""REFLOW as a repair: population statistics for every BatchNorm layer (arXiv 2502.15790)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.nn.parameter import is_lazy

from reflow_lightning.calibration.batchnorm import not_calibrated, population_statistics, write_statistics
from reflow_lightning.calibration.repair import Calibration
from reflow_lightning.calibration.repairable import norms_to_repair
from reflow_lightning.running.compat.torch import BatchNorm
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.names import few, few_reasons
from reflow_lightning.running.processes import warn
from reflow_lightning.running.snapshot import Snapshot

DONE = "BatchNorm statistics"


@dataclass(frozen=True)
class BatchNormStatistics:
    """Population statistics for every BatchNorm layer. No weight is changed, and no dense network needed."""

    writes_weights: ClassVar[bool] = False
    restores_itself: ClassVar[bool] = True
    unit_by_unit: ClassVar[bool] = True

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether the dense network is needed: never, since nothing is compared."""
        return False

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None = None
    ) -> Calibration:
        """Repair the model."""
        return restore_statistics(model, norms_to_repair(model), batches, forward)


def restore_statistics(
    model: nn.Module, layers: Mapping[str, BatchNorm], batches: Iterable[Any], forward: Forward
) -> Calibration:
    """Give BatchNorm layers of a model, found already, their population statistics."""
    start = time.perf_counter()
    skipped = not_calibrated(model)
    if skipped:
        warn(f"calibrate left alone {few_reasons(skipped)}")
    if not layers:
        warn(
            f"{type(model).__name__} has no BatchNorm layer with running statistics: nothing was repaired; "
            "use repair='moments' or 'reconstruct', with reference=the dense network",
        )
        return Calibration((), skipped, 0, 0.0)
    for name, layer in layers.items():
        if is_lazy(layer.get_buffer("running_mean")):
            raise ValueError(f"layer '{name}' is not initialised yet: run one forward pass before calibrating")
    population = population_statistics(model, batches, forward, layers)
    before = Snapshot.of_buffers(layers.values())
    repaired = write_statistics(model, population, layers)
    unreached = {name: "no batch reached it" for name in layers if name not in repaired}
    if unreached:
        warn(f"calibrate left alone {few(unreached)}: no batch reached them")
    how = dict.fromkeys(repaired, DONE)
    seconds = time.perf_counter() - start
    return Calibration(repaired, skipped | unreached, population.batches, seconds, before, how)


@dataclass(frozen=True)
class NoRepair:
    """The pruned network as it is, for comparison."""

    writes_weights: ClassVar[bool] = False
    restores_itself: ClassVar[bool] = True
    unit_by_unit: ClassVar[bool] = True

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether the dense network is needed: never, since nothing is compared."""
        return False

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None = None
    ) -> Calibration:
        """Do nothing."""
        return Calibration((), {}, 0, 0.0)
