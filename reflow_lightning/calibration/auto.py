"""The repair that fits every network: BatchNorm layers by REFLOW, what no BatchNorm follows by its moments."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from reflow_lightning.calibration.batchnorm import (
    by_the_batch,
    not_calibrated,
    population_statistics,
    write_statistics,
)
from reflow_lightning.calibration.changing import check_reference
from reflow_lightning.calibration.enough import as_many
from reflow_lightning.calibration.in_turn import InTurn, joined
from reflow_lightning.calibration.moments import DONE, repair_layers
from reflow_lightning.calibration.reflow import BatchNormStatistics, NoRepair, restore_statistics
from reflow_lightning.calibration.repair import (
    Calibration,
    Repair,
    keeping_zeros,
    leaves_undo_to_caller,
    needs_reference,
    undone_if_it_fails,
    unit_by_unit,
    writes_weights,
)
from reflow_lightning.calibration.repairable import layers_to_repair, norms_to_repair
from reflow_lightning.layers.find import Layers
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.order import Order, OrderWatch
from reflow_lightning.running.compat.torch import BatchNorm
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.inference import ordinary
from reflow_lightning.running.snapshot import Snapshot


def without_batchnorm(known: Mapping[str, Layer], order: Order) -> dict[str, Layer]:
    """Layers whose signal no BatchNorm layer restores: norms of other kinds, and weighted layers that none follows.

    Args:
        known: The layers of a model that can be written.
        order: What follows what.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
        >>> list(without_batchnorm(layers_to_repair(model).known, Order(handed_on={"0": ("1",)})))
        ['3']
    """
    return {
        name: layer
        for name, layer in known.items()
        if name not in order.handed_on and not isinstance(layer.module, BatchNorm)
    }


@dataclass(frozen=True)
class Auto:
    """Population statistics for BatchNorm layers, then `Moments` for the layers that no BatchNorm follows.

    Which BatchNorm layer follows which layer is learned from the calls in the pass that takes the statistics, so that
    it does not depend on how the modules are registered. A BatchNorm layer behind a layer that is matched normalises by
    the batch at hand meanwhile, since its inputs change, and gets its statistics once more. Without the dense network
    the layers that no BatchNorm follows are left alone. For the comparison the dense network gets statistics of the
    same batches; it is left as it was.
    """

    writes_weights: ClassVar[bool] = False  # but where it has the dense network
    restores_itself: ClassVar[bool] = True
    leaves_undo_to_caller: ClassVar[bool] = True
    unit_by_unit: ClassVar[bool] = True

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether the dense network is needed: it may be, as the calls tell only later what no BatchNorm follows."""
        return True

    def between_prunings(self, model: nn.Module) -> Repair:
        """BatchNorm alone, while more weights are to be pruned.

        A row that is rescaled would rank otherwise in the next pruning, by size and not by use, and training brings its
        strength back anyway.
        """
        return BatchNormStatistics() if norms_to_repair(model) else NoRepair()

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        found, norms, watch = layers_to_repair(model), norms_to_repair(model), OrderWatch(model)
        can_write = reference is not None
        if not norms and can_write:
            return _moments(model, found, Order(), batches, forward, reference)
        first = restore_statistics(model, norms, batches, watch.around(forward))
        with undone_if_it_fails(first):
            order = _followed_by_repaired(model, norms, watch.order())
            layers = without_batchnorm(found.known, order)
            if not layers or not can_write:
                why = "no BatchNorm follows it, and no dense network was given (reference=)"
                return replace(first, skipped={**dict.fromkeys(layers, why), **first.skipped})
            behind = _behind(norms, layers, order)
            with by_the_batch(model, behind):
                done = [first, _moments(model, found, order, batches, forward, reference)]
            with undone_if_it_fails(done[1]):
                if behind:
                    done.append(restore_statistics(model, norms, batches, forward))
        return joined(done, sum(calibration.seconds for calibration in done))


def _followed_by_repaired(model: nn.Module, norms: Collection[str], order: Order) -> Order:
    """The order without the BatchNorm layers that go on normalising by the statistics of the dense network."""
    left = {n for n, m in model.named_modules() if getattr(m, "running_mean", None) is not None}.difference(norms)
    return replace(order, handed_on={n: norms for n, norms in order.handed_on.items() if left.isdisjoint(norms)})


def _moments(
    model: nn.Module,
    found: Layers,
    order: Order,
    batches: Iterable[Any],
    forward: Forward,
    reference: nn.Module | None,
) -> Calibration:
    """Repair the layers that no BatchNorm layer follows by their moments.

    The dense network has statistics of the same batches meanwhile: running ones lag behind weights that train fast.
    """
    layers = without_batchnorm(found.known, order)
    dense = ordinary(check_reference(model, layers, reference, DONE))
    skipped = {name: why for name, why in found.skipped.items() if name not in order.handed_on}
    batches = as_many(batches)
    norms = norms_to_repair(dense)
    with ExitStack() as stack:
        stack.callback(Snapshot.of_buffers(norms.values()).restore)
        if norms:
            write_statistics(dense, population_statistics(dense, batches, forward, norms), norms)
        return repair_layers(model, layers, not_calibrated(model) | skipped, batches, forward, dense)


def _behind(norms: Mapping[str, BatchNorm], layers: Iterable[str], order: Order) -> dict[str, BatchNorm]:
    """The norms that are called after one of the layers."""
    calls = list(order.calls)
    first = min((calls.index(name) for name in layers if name in order.calls), default=len(calls))
    return {name: norms[name] for name in calls[first:] if name in norms}


@dataclass(frozen=True)
class ThenBatchNorm:
    """A repair, then population statistics for BatchNorm layers, if there are any.

    Args:
        first: The repair.
    """

    first: Repair
    restores_itself: ClassVar[bool] = True

    def leaves_undo_to_caller(self) -> bool:
        """Whether the first repair does."""
        return leaves_undo_to_caller(self.first)

    def unit_by_unit(self) -> bool:
        """Whether the first repair does."""
        return unit_by_unit(self.first)

    @property
    def writes_weights(self) -> bool:
        """Whether the first repair does."""
        return writes_weights(self.first)

    def keeping_zeros(self) -> Repair:
        """The same with what stands for the first repair."""
        return ThenBatchNorm(keeping_zeros(self.first))

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether the first repair does."""
        return needs_reference(self.first, model)

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        after = [BatchNormStatistics()] if norms_to_repair(model) else []
        return InTurn([self.first, *after])(model, batches, forward, reference)
