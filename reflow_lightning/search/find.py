"""How sparse can a network be? Bisection over the sparsity, with the repair in every step. Plain PyTorch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import nn

from reflow_lightning.calibration import AnyRepair, calibrate, resolve_repair
from reflow_lightning.calibration.repair import between_prunings, keeping_zeros, moves_zeros
from reflow_lightning.pruning import (
    AnyAllocation,
    AnyCriterion,
    Masks,
    PruneSpec,
    check_model,
    choose,
)
from reflow_lightning.pruning.choose import Learned, learn
from reflow_lightning.pruning.estimate import Reading
from reflow_lightning.pruning.floors import least_kept
from reflow_lightning.pruning.mask_state import check_agreement
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.refilled import masks_after
from reflow_lightning.pruning.stepwise import check_steps, shared_out, stepwise
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.processes import gather, together, warn
from reflow_lightning.running.saying import saying_once
from reflow_lightning.running.sharding import is_sharded
from reflow_lightning.running.snapshot import Snapshot
from reflow_lightning.running.world import rank
from reflow_lightning.search.bisection import sparsest
from reflow_lightning.search.checks import as_number, check_alike, check_limits, check_repeatable, comparable
from reflow_lightning.search.trials import Search, Trial, is_within

COARSE = (0.5, 0.7, 0.8, 0.9, 0.95)
"""Sparsities that a search tries in any case, before it bisects."""

_log = logging.getLogger(__name__)


@outside_inference()
def find_sparsity(
    model: nn.Module,
    batches: Iterable[Any],
    evaluate: Callable[[nn.Module], float],
    *,
    max_drop: float = 0.01,
    tolerance: float = 0.005,
    coarse: Sequence[float] = COARSE,
    criterion: AnyCriterion = "magnitude",
    allocation: AnyAllocation = "global",
    pattern: str | None = None,
    min_kept: float = 0.0,
    include: Patterns = ("*",),
    exclude: Patterns = (),
    tied: Mapping[str, str] | None = None,
    steps: int = 1,
    repair: AnyRepair = "auto",
    max_batches: Limit = 50,
    forward: AnyForward | None = None,
    seed: int = 0,
    progress: bool = True,
    known: MutableMapping[float, Trial] | None = None,
) -> Search:
    """Prune and repair a model in place, as sparsely as its score allows.

    Every trial starts from the dense weights, prunes, repairs and evaluates; criterion and allocation read the batches
    once for all of them, and score once. The coarse sparsities come first, all of them, since a score need not fall
    steadily; then bisection goes on above the sparsest of them that was within the drop (see `sparsest`). What the
    model is in the end was measured, to the bit, and is within the drop. The choice is made by these scores, so let
    ``evaluate`` use validation data, and test once, afterwards.

    If anything fails the model is as it was. Where processes run together (`torch.distributed`), call it on all of
    them, each with its own batches: a score is the mean over all, so that all take the same path. It takes the memory
    of three copies of the model, and of the scores, except for ``"magnitude"`` and ``"random"``, whose scores are made
    in pieces.

    Args:
        model: Any module, on the device where it shall run. A model under `fully_shard` is refused.
        batches: Drawn and transformed as in training, for criterion and repair; the repair iterates anew in each trial.
        evaluate: Gives the model, which is in eval mode, a score; higher is better.
        max_drop: By how much the score may be below the dense model's, in the score's own unit.
        tolerance: How close to its limit the sparsity shall come; never closer than one weight.
        coarse: Sparsities that are tried in any case.
        criterion: Which weights go; see `reflow_lightning.prune`. A criterion that needs data gets the batches.
        allocation: How weights are shared out over layers.
        pattern: ``"N:M"`` or ``None``; nothing less sparse than the pattern is tried.
        min_kept: Least share of all weights that each layer keeps; nothing sparser than that is tried.
        include: Glob patterns on parameter names.
        exclude: Glob patterns on parameter names.
        tied: Parameters or buffers that get the masks of others.
        steps: So many prunings lead to each sparsity, each with the repair; see `reflow_lightning.Pruner`.
        repair: See `reflow_lightning.calibrate`, as for the next two. A copy of the dense model is its reference.
        max_batches: At most so many batches each time, or ``"auto"``.
        forward: ``(model, batch) -> anything`` for batches that the default does not understand.
        seed: Seed of what criterion, batches and evaluation draw, the same in each trial.
        progress: Show a bar in a terminal while a repair takes more than two seconds.
        known: Trials by the sparsity that was asked for. Those in it are not made again, and new ones are put into it:
            give the same one again, with the same model and arguments, and a search that was stopped goes on.

    Returns:
        What was found and tried, with ``undo()``. If nothing is within the drop, a warning says so, and the model is
        dense.

    Raises:
        ValueError: If an argument is out of range, or a score is NaN.
        TypeError: If ``evaluate`` gives no number, or ``batches`` can be iterated only once.

    Example:
        >>> model = nn.Sequential(nn.Linear(100, 10), nn.BatchNorm1d(10))
        >>> def kept(model):  # stands for an accuracy
        ...     return float((model[0].weight != 0).float().mean())
        >>> search = find_sparsity(model, [torch.randn(32, 100)], kept, max_drop=0.25, tolerance=0.01, max_batches=1)
        >>> search.sparsity, search.score, len(search.trials)
        (0.25, 0.75, 11)
        >>> search.undo()
        >>> kept(model)
        1.0
    """
    spec = PruneSpec(
        criterion=criterion,
        allocation=allocation,
        pattern=pattern,
        min_kept=min_kept,
        include=include,
        exclude=exclude,
        tied=tied,
    )
    reading: dict[str, Any] = {"max_batches": max_batches, "forward": forward, "progress": progress}
    said: set[str] = set()
    with together("preparing the search"), saying_once(said):
        check_limits(max_drop, tolerance, coarse)
        check_repeatable(batches)
        made: MutableMapping[float, Trial] = {} if known is None else known
        check_alike(made)
        check_steps(steps)
        last = resolve_repair(repair)
        last = keeping_zeros(last) if spec.rules_zeros else last
        between = last if steps == 1 else between_prunings(last, model)
        least = 0.0 if pattern is None else Pattern.parse(pattern).sparsity
        selected = check_model(model, least, spec)
        if any(map(is_sharded, selected.values())):
            raise ValueError(
                f"{type(model).__name__} is spread over processes by fully_shard and can't be copied: search before "
                "that, or with a model that each process holds whole"
            )
        sizes = {name: weight.numel() for name, weight in selected.items()}
        total = sum(sizes.values())
        most = 1 - sum(least_kept(total, sizes, min_kept, keep=total).values()) / total
        dense = Snapshot([model])
        reference = dense_copy(model)

    asked: list[float] = []  # the sparsities, in the order of their trials
    learned: list[Learned] = []
    found: dict[float, tuple[Masks, Snapshot]] = {}  # of the sparsest so far alone

    def trials() -> tuple[Trial, ...]:
        return tuple(made[sparsity] for sparsity in asked)

    def score() -> float:
        with together("evaluate"), isolated_rng(seed), only_training(model, ()):
            own = as_number(evaluate(model))
        return comparable(fmean(gather(own)))

    def repaired(sparsity: float) -> Masks:
        dense.restore()
        if not learned:  # once, as every trial scores the dense weights
            with together("scoring"), isolated_rng(seed):
                learned.append(learn(model, sparsity, spec, Reading(batches=batches, **reading)))
        masks = None
        with together("sharing out the weights"), isolated_rng(seed):
            targets = shared_out(model, stepwise(spec, sparsity, steps), learned[0])
        for number, (step, target) in enumerate(targets, 1):
            masks = pruned(step, target, learned[0] if masks is None else None, masks)
            after = last if number == len(targets) else between
            with isolated_rng(seed + rank()):  # so that each trial is calibrated on the same batches
                calibrate(model, batches, repair=after, reference=reference, **reading)
            with together("the repair"):
                masks = masks_after(model, masks, after, moves_zeros(after))
        assert masks is not None  # there is one target at least
        return masks

    def pruned(step: PruneSpec, target: float, learned: Learned | None, previous: Masks | None) -> Masks:
        with together("pruning"), isolated_rng(seed):  # the same on all processes, for a criterion that draws
            choice = choose(model, target, step, previous=previous, batches=batches, learned=learned, **reading)
            choice.apply(model)
        check_agreement(choice.masks)
        return choice.masks

    def tried(sparsity: float) -> Trial:
        start = time.perf_counter()
        with saying_once(said):
            masks = repaired(sparsity)
        values = Snapshot([model])  # evaluate may change the model
        made[sparsity] = Trial(masks.sparsity, score(), time.perf_counter() - start)
        if is_within(made[sparsity].score, dense_score, max_drop) and sparsity > max(found, default=0.0):
            found.clear()
            found[sparsity] = masks, values
        return made[sparsity]

    def holds_again(sparsity: float) -> bool:
        """Whether what is found was within the drop here, and not only in a trial of before, which is made again."""
        return not sparsity or sparsity in found or is_within(tried(sparsity).score, dense_score, max_drop)

    def within(sparsity: float) -> bool:
        trial = made.get(sparsity) or tried(sparsity)
        asked.append(sparsity)
        holds = is_within(trial.score, dense_score, max_drop)
        if rank() == 0:
            _log.info("sparsity %.4f: %.4f, %s", trial.sparsity, trial.score, "within" if holds else "too low")
        return holds

    try:
        dense_score = score()
        if not math.isfinite(dense_score):
            raise ValueError(f"evaluate gave {dense_score} for the dense model: it must give a finite number")
        limits = coarse, least, most, max(tolerance, 1 / total)
        best = sparsest(within, *limits)
        if not holds_again(best):
            warn("known holds trials of another model or other arguments: all are made again")
            for held in (made, asked, found):
                held.clear()
            best = sparsest(within, *limits)
        if best:
            masks, values = found[best]
            values.restore()
            return Search(masks.sparsity, masks, made[best].score, dense_score, max_drop, trials(), dense)
        dense.restore()
    except BaseException:
        dense.restore()
        raise
    nearest = min(trials(), default=None)
    measured = f": {nearest.score:.4f} at {nearest.sparsity:.4f}, {dense_score:.4f} dense" if nearest else ""
    warn(
        f"no sparsity that was tried is within max_drop={max_drop}{measured}; the model is dense as before: allow a "
        "larger drop, or look at the calibration batches",
    )
    masks = Masks((name, torch.ones_like(weight, dtype=torch.bool)) for name, weight in selected.items())
    return Search(0.0, masks, dense_score, dense_score, max_drop, trials(), dense)
