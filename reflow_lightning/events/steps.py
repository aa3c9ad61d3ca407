"""The prunings that an event consists of: how each chooses its weights, and what repairs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

from reflow_lightning.calibration import Recipe, Repair, resolve_repair
from reflow_lightning.calibration.recipes import PRUNINGS
from reflow_lightning.calibration.repair import between_prunings, keeping_zeros
from reflow_lightning.calibration.repairable import leaving
from reflow_lightning.events.plan import Again, Plan
from reflow_lightning.pruning import Choice, Masks, choose
from reflow_lightning.pruning.choose import learn
from reflow_lightning.pruning.estimate import Reading
from reflow_lightning.pruning.mask_state import check_agreement
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.pruning.stepwise import shared_out, stepwise
from reflow_lightning.running.batches import Batches, device_of
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.saying import unheard


class Step(NamedTuple):
    """One pruning.

    Attributes:
        spec: How its weights are chosen.
        sparsity: What it reaches.
        repair: What follows it.
        is_last: Whether it is the last of the event.
    """

    spec: PruneSpec
    sparsity: float
    repair: Repair
    is_last: bool


class Steps(NamedTuple):
    """The prunings of an event, and what a repair that chose them says of its choice."""

    steps: list[Step]
    recipe: str


def steps_of(model: nn.Module, sparsity: float, plan: Plan, previous: Masks | None) -> Steps:
    """The prunings; between them stands what a repair has for that."""
    repair = resolve_repair(plan.repair)
    repair = keeping_zeros(repair) if plan.spec.rules_zeros else repair
    reached = 0.0 if previous is None else previous.sparsity
    if plan.is_last and (choose_recipe := getattr(repair, "recipe", None)) is not None:
        prunings, recipe = _by_recipe(choose_recipe, model, sparsity, plan, reached)
        between, last, words = recipe.between, recipe.repair, recipe.words
    else:
        prunings, words = stepwise(plan.spec, sparsity, plan.steps, reached), ""
        between = last = repair
        if len(prunings) > 1 or not plan.is_last:
            with leaving(plan.untouched):
                between = between_prunings(repair, model)
            last = repair if plan.is_last else between
    repairs = [between] * (len(prunings) - 1) + [last]
    if len(prunings) > 1:
        prunings = _shared_out(model, prunings, plan, previous)
    steps = [Step(*pruning, repairs[n], n == len(prunings) - 1) for n, pruning in enumerate(prunings)]
    return Steps(steps, words)


def _by_recipe(
    choose_recipe: Callable[..., Recipe], model: nn.Module, sparsity: float, plan: Plan, reached: float
) -> tuple[list[tuple[PruneSpec, float]], Recipe]:
    steps = (plan.steps,) if plan.steps > 1 or reached else PRUNINGS  # the steps of a schedule stay as they are
    found = [stepwise(plan.spec, sparsity, number, reached) for number in steps]
    targets = {len(prunings): prunings for prunings in found}  # a pattern allows few
    batches = Batches(Again(plan.batches), plan.limit, device_of(model), task="choosing the repair")
    with plan.isolated(), leaving(plan.untouched):
        recipe = choose_recipe(model, batches, batches.alike(plan.forward), sorted(targets, reverse=True), sparsity)
    return targets[recipe.prunings], recipe


def _shared_out(
    model: nn.Module, prunings: list[tuple[PruneSpec, float]], plan: Plan, previous: Masks | None
) -> list[tuple[PruneSpec, float]]:
    with isolated_rng(seed=plan.step):
        learned = learn(model, prunings[0][1], prunings[0][0], _reading(plan))
        return shared_out(model, prunings, learned, previous)


def _reading(plan: Plan) -> Reading:
    return Reading(batches=Again(plan.drawn), max_batches=plan.limit, forward=plan.forward, progress=plan.progress)


def choose_step(model: nn.Module, step: Step, plan: Plan, previous: Masks | None) -> Choice:
    """Choose the weights of one pruning, the same on all ranks, for a criterion that draws."""
    with isolated_rng(seed=plan.step), _told_by_the_last(step):
        choice = choose(
            model,
            step.sparsity,
            step.spec,
            previous=previous,
            **vars(_reading(plan)),
        )
    check_agreement(choice.masks)
    return choice


@contextmanager
def _told_by_the_last(step: Step) -> Iterator[None]:
    """Of the prunings of an event the last tells which layers are nearly empty."""
    if step.is_last:
        yield
        return
    with warnings.catch_warnings(), unheard():
        warnings.filterwarnings("ignore", message=".*sparsity=.* leaves ")
        yield
