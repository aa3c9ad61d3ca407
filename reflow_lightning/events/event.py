"""One prune event: dense -> pruned -> repaired, or nothing at all. Plain PyTorch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from torch import nn

from reflow_lightning.calibration import (
    Calibration,
    NoRepair,
    Repair,
    calibrate,
    check_drift,
    needs_reference,
    resolve_repair,
    warn_of_drift,
)
from reflow_lightning.calibration.drift.check import is_trained
from reflow_lightning.calibration.repair import between_prunings
from reflow_lightning.events.plan import Again, Plan
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.pruning import Choice, Masks, choose
from reflow_lightning.running.batches import at_most
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import gather, share, together, world_size
from reflow_lightning.running.sharding import is_sharded, reshard, sharded_modules
from reflow_lightning.running.snapshot import Snapshot, Snapshots, TrainingFlags
from reflow_lightning.signal.measure import Profile

_DRIFT_BATCHES = 10


def prune_and_repair(
    model: nn.Module, sparsity: float, plan: Plan, previous: Masks | None = None
) -> tuple[PruneEvent, Masks]:
    """Prune a model in place and repair it; if anything fails, on any process, it is as it was on all.

    Args:
        model: The model.
        sparsity: Fraction of the selected weights that are zero then.
        plan: How.
        previous: Masks of an earlier pruning, whose zeros stay.

    Returns:
        What was done, and the masks.
    """
    reshard(model)
    with together("preparing to prune"):
        prepared = _prepare(model, sparsity, plan, previous)
    choice, repair, profile, seconds = prepared.choice, prepared.repair, prepared.profile, {"prune": prepared.seconds}

    def reached(stage: str) -> None:
        if profile is not None:
            profile.measure(model, stage)
        with together(f"a listener to the {stage} network"):
            for listener in plan.listeners:
                try:
                    listener(stage, model)
                finally:
                    reshard(model)  # it may have run the network

    with ExitStack() as undo:  # what is pushed is called, the last first, unless everything succeeds
        undo.callback(_remember(model))
        reached("dense")
        start = time.perf_counter()
        choice.apply(model)
        seconds["prune"] += time.perf_counter() - start
        reached("pruned")
        start = time.perf_counter()
        with together("the repair"):
            calibration = _repair(model, repair, prepared.reference, plan)
            undo.callback(calibration.undo)
        seconds["repair"] = time.perf_counter() - start
        reached("repaired")
        for average in plan.averages:
            undo.callback(_remember(average))
            with together("the repair of the averaged weights"):
                reference = None if prepared.reference is None else dense_copy(average)
                choice.apply(average)
                undo.callback(_repair(average, repair, reference, plan).undo)
        with together("the end of the event"):
            plan.finish(choice.masks)
        masks, signal = choice.masks, {} if profile is None else profile.reports
        event = PruneEvent(plan.step, masks.sparsity, masks.sparsities, calibration, seconds, signal)
        undo.pop_all()
    return event, masks


@dataclass(frozen=True)
class _Prepared:
    """What is known before anything is changed.

    Attributes:
        choice: Which weights go.
        repair: The repair, as this event does it.
        reference: A copy of the dense model, if the repair compares with it.
        profile: Measures the signal, if that is wanted.
        seconds: Time taken to choose.
    """

    choice: Choice
    repair: Repair
    reference: nn.Module | None
    profile: Profile | None
    seconds: float


def _prepare(model: nn.Module, sparsity: float, plan: Plan, previous: Masks | None) -> _Prepared:
    """Choose the weights, look for a drift, read the batches to measure on, and copy the dense model."""
    start = time.perf_counter()
    with isolated_rng(seed=plan.step):  # the same on all ranks, for a criterion that draws
        choice = choose(
            model,
            sparsity,
            plan.spec,
            previous=previous,
            batches=Again(plan.drawn),
            max_batches=plan.limit,
            forward=plan.forward,
            progress=plan.progress,
        )
    _check_agreement(choice.masks)
    seconds = time.perf_counter() - start

    repair = resolve_repair(plan.repair)
    if not plan.is_last:
        repair = between_prunings(repair, model)
    compares = needs_reference(repair, model) and not sharded_modules(model)  # those it refuses
    is_dense = previous is None
    if is_dense and plan.foreign and not isinstance(repair, NoRepair) and is_trained(model):
        with plan.isolated():
            limit = at_most(plan.limit, share(_DRIFT_BATCHES))
            warn_of_drift(check_drift(model, Again(plan.batches), plan.forward, limit))

    profile = None
    if plan.profile is not None:
        with plan.isolated():
            profile = Profile(islice(plan.batches(), plan.profile), plan.forward)

    return _Prepared(choice, repair, dense_copy(model) if compares else None, profile, seconds)


def _check_agreement(masks: Masks) -> None:
    """Check that all processes chose the same weights; those that are spread over them are chosen together anyway."""
    if world_size() == 1 or any(map(is_sharded, masks.values())):
        return
    if len(set(gather(masks.state_dict()["checksum"]))) > 1:
        raise ValueError(
            "the processes chose different weights: give all of them the same arguments and weights, and let a "
            "criterion of your own return the same scores on all"
        )


def _remember(model: nn.Module) -> Callable[[], None]:
    """A function that puts back all values and the training flags.

    A repair undoes itself if it raises, but Ctrl-C may come when it has just returned, or undoes itself.
    """
    before = Snapshots([TrainingFlags(model.modules()), Snapshot([model])])

    def restore() -> None:
        reshard(model)  # as it was when the values were taken
        before.restore()

    return restore


def _repair(model: nn.Module, repair: Repair, reference: nn.Module | None, plan: Plan) -> Calibration:
    """Repair a pruned model; it is unchanged if that raises."""
    with plan.isolated(), warnings.catch_warnings():
        # the copy is our own: where no weight was pruned this time, both are equal
        warnings.filterwarnings("ignore", message="reference has all the weights of the model")
        return calibrate(
            model,
            Again(plan.batches),
            repair=repair,
            reference=reference,
            max_batches=plan.limit,
            forward=plan.forward,
            progress=plan.progress,
        )
