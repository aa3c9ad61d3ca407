"""How sparse can a network be? Bisection over the sparsity, with the repair in every step. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.calibration import AnyRepair, resolve_repair
from reflow_lightning.calibration.repair import keeping_zeros
from reflow_lightning.pruning import AnyAllocation, AnyCriterion, Masks, PruneSpec, check_model
from reflow_lightning.pruning.estimate import Reading
from reflow_lightning.pruning.floors import least_kept
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.stepwise import check_steps
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.processes import together, warn
from reflow_lightning.running.saying import saying_once
from reflow_lightning.search.bisection import sparsest
from reflow_lightning.search.checks import check_alike, check_limits, check_repeatable
from reflow_lightning.search.sparsifier import Sparsifier
from reflow_lightning.search.trials import Search, Trial
from reflow_lightning.search.tried import Tried

COARSE = (0.5, 0.7, 0.8, 0.9, 0.95)
"""Sparsities that a search tries in any case, before it bisects."""


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
    them, each with its own batches: a score is the mean over all, so that all take the same path. Of a model that is
    spread over them each holds its part. It takes the memory of three copies, two if the repair needs no dense network
    to compare with, and of the scores, except for ``"magnitude"`` and ``"random"``, whose scores are made
    in pieces.

    Args:
        model: Any module, on the device where it shall run. Under `fully_shard` all processes evaluate it at once.
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
    said: set[str] = set()
    with together("preparing the search"), saying_once(said):
        check_limits(max_drop, tolerance, coarse)
        check_repeatable(batches)
        made: MutableMapping[float, Trial] = {} if known is None else known
        check_alike(made)
        check_steps(steps)
        last = resolve_repair(repair)
        last = keeping_zeros(last) if spec.rules_zeros else last
        least = 0.0 if pattern is None else Pattern.parse(pattern).sparsity
        selected = check_model(model, least, spec)
        most, closest = _bounds(selected, min_kept, tolerance)
        reading = Reading(batches=batches, max_batches=max_batches, forward=forward, progress=progress)
        prune_to = Sparsifier(model, spec, steps, last, reading, seed)
    limits = coarse, least, most, closest
    try:
        tried = Tried(model, prune_to, evaluate, max_drop, seed, made, said)
        best = sparsest(tried.within, *limits)
        if not tried.holds_here(best):
            warn("known holds trials of another model or other arguments: all are made again")
            tried.forget()
            best = sparsest(tried.within, *limits)
        if best:
            masks, trial = tried.restore_sparsest()
            return Search(masks.sparsity, masks, trial.score, tried.dense_score, max_drop, tried.trials, prune_to.dense)
        prune_to.restore()
    except BaseException:
        prune_to.restore()
        raise
    warn(_nothing_found(tried, max_drop))
    masks = Masks((name, torch.ones(weight.shape, dtype=torch.bool)) for name, weight in selected.items())
    return Search(0.0, masks, tried.dense_score, tried.dense_score, max_drop, tried.trials, prune_to.dense)


def _bounds(selected: Mapping[str, Tensor], min_kept: float, tolerance: float) -> tuple[float, float]:
    """The sparsity that the floors allow at most, and how close to its limit a sparsity can come at all."""
    sizes = {name: weight.numel() for name, weight in selected.items()}
    total = sum(sizes.values())
    return 1 - sum(least_kept(total, sizes, min_kept, keep=total).values()) / total, max(tolerance, 1 / total)


def _nothing_found(tried: Tried, max_drop: float) -> str:
    nearest = min(tried.trials, default=None)
    measured = f": {nearest.score:.4f} at {nearest.sparsity:.4f}, {tried.dense_score:.4f} dense" if nearest else ""
    return (
        f"no sparsity that was tried is within max_drop={max_drop}{measured}; the model is dense as before: allow a "
        "larger drop, or look at the calibration batches"
    )
