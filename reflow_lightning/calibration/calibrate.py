"""Restore the signal of a pruned network, and take it back if need be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from reflow_lightning.calibration.align import Align
from reflow_lightning.calibration.auto import Auto, ThenBatchNorm
from reflow_lightning.calibration.best import Best
from reflow_lightning.calibration.closer import Closer
from reflow_lightning.calibration.in_turn import InTurn
from reflow_lightning.calibration.moments import Moments
from reflow_lightning.calibration.reconstruct import Reconstruct
from reflow_lightning.calibration.reflow import BatchNormStatistics, NoRepair
from reflow_lightning.calibration.repair import (
    Calibration,
    Repair,
    needs_reference,
    remembered,
    run,
    undone_by_caller,
    undone_if_it_fails,
    unit_by_unit,
    writes_weights,
)
from reflow_lightning.calibration.reselect import Reselect
from reflow_lightning.layers.weight_norm import norms_in, without_weight_norm
from reflow_lightning.running.agreeing import take_from_first
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.batches import Batches, Limit, device_of
from reflow_lightning.running.inference import outside_inference, writing
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.plain import plain_copy, write_back
from reflow_lightning.running.processes import together
from reflow_lightning.running.registry import Registry
from reflow_lightning.running.sharding import casts, is_spread, runs_by_unit, sharded_modules, splits_layers, whole
from reflow_lightning.running.snapshot import Snapshots
from reflow_lightning.running.units import by_unit, serving


def _check_repair(name: str, repair: Repair) -> None:
    if isinstance(repair, type) or not callable(repair):
        given = f"the class {repair.__name__}" if isinstance(repair, type) else repr(repair)
        raise ValueError(f"repair '{name}' is {given}: register an instance that can be called, such as a Repair")


REPAIRS: Registry[Repair] = Registry("repair", _check_repair)


def register_repair(name: str, repair: Repair) -> None:
    """Give a repair a name, by which `calibrate`, `Reflow` and the application find it.

    Args:
        name: The name.
        repair: See `Repair`.

    Raises:
        ValueError: If the name is taken, or the repair can't be called.

    Example:
        >>> register_repair("statistics", BatchNormStatistics())
        >>> resolve_repair("statistics")
        BatchNormStatistics()
    """
    REPAIRS.register(name, repair)


register_repair("auto", Auto())
register_repair("batchnorm", BatchNormStatistics())
register_repair("moments", Moments())
register_repair("reconstruct", ThenBatchNorm(Reconstruct()))
register_repair("reselect", ThenBatchNorm(Reselect()))
register_repair("align", Align())
register_repair("best", Best())
register_repair("none", NoRepair())

AnyRepair = Repair | Sequence[Repair | Callable[..., Any] | str] | Callable[..., Any] | str
"""A repair, several of them, or a name; names come last, since readers of YAML try the types in this order."""


def resolve_repair(repair: AnyRepair) -> Repair:
    """Look a repair up by name; a callable is returned as it is, a list becomes one repair.

    Raises:
        ValueError: If a name is unknown, or the list is empty.

    Example:
        >>> resolve_repair("moments")
        Moments(targets={})
    """
    if isinstance(repair, type):
        raise ValueError(f"repair={repair.__name__} is a class: pass an instance, {repair.__name__}()")
    if callable(repair):
        return repair
    if isinstance(repair, str):
        return REPAIRS.named(repair, ", a callable, or a list of them")
    if not isinstance(repair, Sequence) or not repair:
        raise ValueError(f"repair={repair!r} must be one of {sorted(REPAIRS)}, a callable, or a list")
    return InTurn([resolve_repair(one) for one in repair])


def within(repair: AnyRepair, budget: float | str | None) -> AnyRepair:
    """A repair with the time that it may take.

    Args:
        repair: See `resolve_repair`.
        budget: The time of ``"best"``, see `Best`; ``None`` leaves the repair as it is.

    Raises:
        ValueError: If the budget is no time, or the repair takes none.

    Example:
        >>> within("best", "5min")
        Best(budget='5min', logits=0.1)
    """
    if budget is None:
        return repair
    if repair != "best":
        raise ValueError(f"budget={budget!r} is for repair='best', not for {repair!r}: leave out the one or the other")
    return Best(budget)


@outside_inference()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    repair: AnyRepair = "auto",
    reference: nn.Module | None = None,
    max_batches: Limit = 50,
    forward: AnyForward | None = None,
    progress: bool = True,
) -> Calibration:
    """Bring back the signal of a pruned network (REFLOW, arXiv 2502.15790, and its kin for layers without BatchNorm).

    Where processes run together (`torch.distributed`), call it on all of them, each with its own batches or none: the
    statistics are computed over all their batches, and if one fails, all raise. Training flags and random states stay
    as they are. Zeros stay zero, except with ``"reselect"``. A model under `fully_shard` is held whole one unit at a
    time, or altogether for ``"align"``, ``"best"`` and repairs that do not say `unit_by_unit`.

    A repair that is given the dense network may move the outputs away from the dense outputs. Then a warning says so.

    Args:
        model: Any module, on the device where it shall run.
        batches: Any iterable of batches, drawn and transformed as in training. All repairs but ``"batchnorm"`` read it
            several times.
        repair: ``"batchnorm"``: population statistics for BatchNorm layers (REFLOW), no weight is touched.
            ``"moments"``: match each channel's mean and standard deviation to the dense network's, see `Moments`.
            ``"reconstruct"``: fit the surviving weights to the dense network, see `Reconstruct`, then the first.
            ``"reselect"``: choose anew which weights of each layer survive, too, see `Reselect`; zeros move.
            ``"align"``: gradient descent towards the dense network, without labels, see `Align`; it takes as long as
            some training. ``"best"``: the strongest that fits into a minute, see `Best`. ``"auto"``: the first for
            BatchNorm layers, the second for layers that none follows. ``"none"``. Or a callable, such as
            `Reconstruct(ridge=0.1)` or your own `Repair`. Or a list, one after the other.
        reference: The dense network, a copy from before the pruning. Without it ``"auto"`` is ``"batchnorm"``.
        max_batches: At most so many batches; ``"auto"``: as many as their statistics need, at most 200.
        forward: ``(model, batch) -> anything`` for batches that the default does not understand. Default: the model on
            the first element of a tuple or list; on a mapping by name, if all keys are arguments of the model, or those
            that are if one is ``"input_ids"``; else on its ``"x"``, ``"image"``, ``"input"``, ``"pixel_values"`` or
            ``"input_ids"``; else on the batch.
        progress: Show a bar in a terminal if it takes more than two seconds.

    Returns:
        What was done, with ``undo()``.

    Raises:
        ValueError: If there is no batch, a layer gets NaN or infinite values, or the dense network is needed and is
            missing or another one. The model then is unchanged.
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
    resolved = resolve_repair(repair)
    if _needs_copy(resolved, model, reference):
        how = {"max_batches": max_batches, "forward": forward, "progress": progress}
        return _calibrate_copy(model, batches, reference, resolved, **how)
    moved = Batches(batches, max_batches, device_of(model), task="calibration", progress=progress)
    with isolated_rng(), whole(model), together("calibration"), torch.no_grad(), writing(model):
        alike = moved.alike(as_forward(forward))
        closer = None
        if reference is not None and not isinstance(resolved, (BatchNormStatistics, NoRepair)):
            closer = Closer(model, reference, moved, alike)
        of_norms = remembered([norm.module for norm in norms_in(model)])
        with without_weight_norm(model, reference):
            result = run(resolved, model, moved, alike, reference)
            with undone_if_it_fails(result), together("the check of the repair"):
                take_from_first(_modules(model, result.repaired))
                moved.check()
                if closer is not None:
                    closer.check()
    return result if result.before is None else replace(result, before=Snapshots([result.before, of_norms]))


def _calibrate_copy(
    model: nn.Module, batches: Iterable[Any], reference: nn.Module | None, repair: Repair, **how: Any
) -> Calibration:
    """Repair a copy of a network that is spread over processes, whole one unit at a time if the repair allows it."""
    copied_of = by_unit if runs_by_unit(model) and unit_by_unit(repair) else plain_copy
    before = remembered([model])
    try:
        dense = copied_of(reference) if reference is not None and is_spread(reference) else reference
        copied = copied_of(model)
        with serving(dense), serving(copied), undone_by_caller():  # a copy needs no undo
            result = calibrate(copied, batches, reference=dense, repair=repair, **how)
        with together("writing the repaired values"):
            write_back(model, copied)
    except BaseException:
        if before is not None:
            before.restore()
        raise
    return replace(result, before=before)


def _modules(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Modules by all of their names; a repair may name what is none."""
    known = dict(model.named_modules(remove_duplicate=False))
    return {name: known[name] for name in names if name in known}


def _needs_copy(repair: Repair, model: nn.Module, reference: nn.Module | None) -> bool:
    """Whether a repair shall run on a copy of a model that is spread over processes."""
    if splits_layers(model) or not sharded_modules(model):
        return splits_layers(model)
    if writes_weights(repair) or (reference is not None and needs_reference(repair, model)):
        return True
    return unit_by_unit(repair) and runs_by_unit(model) and not casts(model)
