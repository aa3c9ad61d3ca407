"""One prune event: dense -> pruned -> repaired, or nothing at all. Plain PyTorch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reflow_lightning.calibration import (
    Calibration,
    NoRepair,
    Repair,
    calibrate,
    check_drift,
    needs_reference,
    warn_of_drift,
)
from reflow_lightning.calibration.dense import dense_to_compare
from reflow_lightning.calibration.drift.check import is_trained
from reflow_lightning.calibration.repair import (
    keeping_zeros,
    leaves_undo_to_caller,
    moves_zeros,
    undone_by_caller,
)
from reflow_lightning.calibration.repairable import leaving
from reflow_lightning.events.plan import Again, Plan
from reflow_lightning.events.record import PruneEvent, PruneStep, seconds_of
from reflow_lightning.events.stages import Stages
from reflow_lightning.events.steps import Step, choose_step, steps_of
from reflow_lightning.pruning import Choice, Masks, check_model
from reflow_lightning.pruning.refilled import bring_back, masks_after, zero_again
from reflow_lightning.running.batches import at_most
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.lent import is_lent
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import is_spread, reshard
from reflow_lightning.running.snapshot import Snapshot, Snapshots, TrainingFlags
from reflow_lightning.running.world import share
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
    begun = time.perf_counter()
    reshard(model)
    with together("preparing to prune"):
        prepared = _prepare(model, sparsity, plan, previous)
    repairs, reference = [step.repair for step in prepared.steps], prepared.reference
    stages = Stages(model, plan.listeners, prepared.profile)
    with ExitStack() as undo:  # what is pushed is called, the last first, unless everything succeeds and stays
        undo.callback(_remember(model, reference, repairs))
        stages.reached("dense")
        choice, record = prepared.choice, []
        done: list[tuple[Choice, Repair]] = []
        for number, step in enumerate(prepared.steps):
            start = time.perf_counter()
            with together("choosing and pruning the weights"):
                if number:
                    choice = choose_step(model, step, plan, choice.masks)
                choice.apply(model)
            pruned = time.perf_counter() - start + (0 if number else prepared.seconds)
            if step.is_last:
                stages.reached("pruned")
            start = time.perf_counter()
            with together("the repair"):
                calibration = _repair(model, step.repair, reference, plan)
                choice = replace(choice, masks=masks_after(model, choice.masks, step.repair, moves_zeros(step.repair)))
            record.append(PruneStep(choice.masks.sparsity, pruned, time.perf_counter() - start))
            done += [(choice, step.repair)] if plan.averages else []
        stages.reached("repaired")
        for average in plan.averages:
            of_average = None if reference is None else dense_copy(average)
            undo.callback(_remember(average, of_average, repairs))
            with together("the repair of the averaged weights"):
                _prune_and_repair_average(average, of_average, done, plan)
        with together("the end of the event"):
            plan.finish(choice.masks)
        event = PruneEvent(
            plan.step,
            choice.masks.sparsity,
            choice.masks.sparsities,
            calibration,
            seconds_of(record, total=time.perf_counter() - begun),
            choice.masks.coverage(model),
            stages.reports,
            tuple(record),
            prepared.recipe,
        )
        if plan.stays:
            undo.pop_all()
    return event, choice.masks


@dataclass(frozen=True)
class _Prepared:
    """What is known before anything is changed.

    Attributes:
        steps: The prunings that lead to the sparsity.
        choice: Which weights go in the first of them.
        reference: A copy of the dense model, if a repair compares with it.
        profile: Measures the signal, if that is wanted.
        seconds: Time taken to choose.
        recipe: How the repair and the number of prunings were chosen, if they were.
    """

    steps: list[Step]
    choice: Choice
    reference: nn.Module | None
    profile: Profile | None
    seconds: float
    recipe: str


def _prepare(model: nn.Module, sparsity: float, plan: Plan, previous: Masks | None) -> _Prepared:
    """Choose the weights, look for a drift, read the batches to measure on, and copy the dense model."""
    start = time.perf_counter()
    selected = check_model(model, sparsity, plan.spec)
    if previous is not None:
        previous = _with_new(previous, selected)
    steps, recipe = steps_of(model, sparsity, plan, previous)
    choice = choose_step(model, steps[0], plan, previous)
    seconds = time.perf_counter() - start

    repairs = [step.repair for step in steps]
    compares = any(needs_reference(repair, model) for repair in repairs)
    is_dense = previous is None
    if is_dense and plan.foreign and not isinstance(repairs[-1], NoRepair) and is_trained(model):
        with plan.isolated():
            limit = at_most(plan.limit, share(_DRIFT_BATCHES))
            warn_of_drift(check_drift(model, Again(plan.batches), plan.forward, limit))

    profile = None
    if plan.profile is not None:
        with plan.isolated():
            profile = Profile(plan.profiled(), plan.forward, plan.metrics)

    return _Prepared(steps, choice, dense_to_compare(model, repairs) if compares else None, profile, seconds, recipe)


def _with_new(masks: Masks, selected: Mapping[str, Tensor]) -> Masks:
    """Masks that keep all weights of what was not selected before, such as a layer that was frozen until now."""
    new = {name: weight for name, weight in selected.items() if name not in masks}
    return masks.joined((name, torch.ones_like(w, dtype=torch.bool)) for name, w in new.items()) if new else masks


def _remember(model: nn.Module, reference: nn.Module | None, repairs: Sequence[Repair]) -> Callable[[], None]:
    """A function that puts back all values and the training flags.

    There is one copy of the weights at most: a repair of this package writes nothing into the dense network, whose
    parameters are the values of before then.
    """
    alike = reference is not None and is_spread(model) == any(map(is_lent, reference.parameters()))
    shares = alike and all(map(leaves_undo_to_caller, repairs))
    values = Snapshot.beside(reference, model) if shares and reference is not None else Snapshot([model])
    before = Snapshots([TrainingFlags(model.modules()), values])

    def restore() -> None:
        reshard(model)  # as it was when the values were taken
        before.restore()

    return restore


def _prune_and_repair_average(
    average: nn.Module, reference: nn.Module | None, done: Sequence[tuple[Choice, Repair]], plan: Plan
) -> None:
    """Do to averaged weights what was done to the model: the same zeros, and the same repairs."""
    for chosen, repair in done:
        if reference is not None and moves_zeros(repair):
            bring_back(average, reference, chosen.masks)
        chosen.apply(average)  # the zeros are the model's, wherever a repair of its own would have them
        _repair(average, keeping_zeros(repair), reference, plan)
        zero_again(average, chosen.masks, repair)


def _repair(model: nn.Module, repair: Repair, reference: nn.Module | None, plan: Plan) -> Calibration:
    """Repair a pruned model, whose values the event puts back if that raises."""
    with plan.isolated(), undone_by_caller(), leaving(plan.untouched), warnings.catch_warnings():
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
