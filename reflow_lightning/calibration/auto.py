"""The repair that fits every network: BatchNorm layers by REFLOW, what no BatchNorm follows by its moments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from reflow_lightning.calibration.changing import check_reference
from reflow_lightning.calibration.enough import as_many
from reflow_lightning.calibration.moments import DONE, repair_layers
from reflow_lightning.calibration.reflow import BatchNormStatistics, NoRepair
from reflow_lightning.calibration.repair import Calibration, InTurn, Repair, needs_reference
from reflow_lightning.layers.affine import Layer
from reflow_lightning.layers.batchnorm import batchnorm_layers
from reflow_lightning.layers.find import find_layers, normalised
from reflow_lightning.layers.order import forward_order
from reflow_lightning.running.compat.torch import BatchNorm
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.sharding import sharded_modules


def without_batchnorm(model: nn.Module) -> dict[str, Layer]:
    """Layers whose signal no BatchNorm layer restores: norms of other kinds, and weighted layers that none follows.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
        >>> list(without_batchnorm(model))
        ['3']
    """
    followed = normalised(model)
    return {
        name: layer
        for name, layer in find_layers(model).known.items()
        if name not in followed and not isinstance(model.get_submodule(name), BatchNorm)
    }


@dataclass(frozen=True)
class Auto:
    """Population statistics for BatchNorm layers, then `Moments` for the layers that no BatchNorm follows.

    Where a layer of the second kind comes before a BatchNorm layer, that gets its statistics once more. Without the
    dense network, or with weights that are spread over processes, the second kind is left alone.
    """

    def needs_reference(self, model: nn.Module) -> bool:
        """Only if there are layers without BatchNorm, which can be written."""
        return bool(without_batchnorm(model)) and not sharded_modules(model)

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        layers = without_batchnorm(model)
        has_batchnorm = bool(batchnorm_layers(model))
        if reference is None or not layers or sharded_modules(model):
            why = "no BatchNorm follows it, and no dense network was given (reference=)"
            return _noting(BatchNormStatistics()(model, batches, forward), dict.fromkeys(layers, why))
        check_reference(model, layers, reference, DONE)
        steps: list[Repair] = [_TheRest(layers)]
        if has_batchnorm:
            steps.insert(0, BatchNormStatistics())
        if has_batchnorm and _comes_before_batchnorm(model, layers, batches, forward):
            steps.append(BatchNormStatistics())
        return InTurn(steps)(model, batches, forward, reference)


def between_prunings(repair: Repair, model: nn.Module) -> Repair:
    """What stands for a repair while more weights are to be pruned.

    `Auto` then keeps to BatchNorm: a row that it rescales would rank otherwise in the next pruning, by size and not by
    use, and training brings its strength back anyway. Any other repair does what it does.

    Example:
        >>> between_prunings(Auto(), nn.Linear(2, 2))
        NoRepair()
    """
    if not isinstance(repair, Auto):
        return repair
    return BatchNormStatistics() if batchnorm_layers(model) else NoRepair()


@dataclass(frozen=True)
class _TheRest:
    layers: Mapping[str, Layer]

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        done = normalised(model).keys() | batchnorm_layers(model).keys()
        skipped = {name: reason for name, reason in find_layers(model).skipped.items() if name not in done}
        return repair_layers(model, self.layers, skipped, as_many(batches), forward, reference)


@dataclass(frozen=True)
class ThenBatchNorm:
    """A repair, then population statistics for BatchNorm layers, if there are any.

    Args:
        first: The repair.
    """

    first: Repair

    def needs_reference(self, model: nn.Module) -> bool:
        """If the first repair does."""
        return needs_reference(self.first, model)

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        after = [BatchNormStatistics()] if batchnorm_layers(model) else []
        return InTurn([self.first, *after])(model, batches, forward, reference)


def _comes_before_batchnorm(
    model: nn.Module, layers: Mapping[str, Layer], batches: Iterable[Any], forward: Forward
) -> bool:
    norms = batchnorm_layers(model)
    with only_training(model, ()):
        order = list(forward_order(model, [*layers, *norms], batches, forward).calls)
    first = next((place for place, name in enumerate(order) if name in layers), len(order))
    return any(name in norms for name in order[first:])


def _noting(calibration: Calibration, skipped: Mapping[str, str]) -> Calibration:
    return replace(calibration, skipped={**skipped, **calibration.skipped})
