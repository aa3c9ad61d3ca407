"""Which repair fits into a time, and how many prunings lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reflow_lightning.calibration.align import Align
from reflow_lightning.calibration.auto import Auto, ThenBatchNorm
from reflow_lightning.calibration.pace import Pace
from reflow_lightning.calibration.reconstruct import DONE as FITTED
from reflow_lightning.calibration.reconstruct import Reconstruct
from reflow_lightning.calibration.repair import Repair
from reflow_lightning.calibration.reselect import DONE as RESELECTED
from reflow_lightning.calibration.reselect import Reselect
from reflow_lightning.calibration.then_align import ThenAlign

PRUNINGS = (12, 8, 4, 2, 1)
"""Numbers of prunings that may be chosen, the largest first."""

_RECONSTRUCTION = 5.0  # costs so many bare passes of a network and the dense one over the batches, which are read twice
_RESELECTION = 7.0
_CHOICES = 2  # of zeros, which *reselect* solves for: the old ones and others
_STEP = 2.0  # of alignment costs so many bare passes of both over its batch, which is read once
_LEAST_STEPS, _MOST_STEPS = 100, 2000


class Recipe(NamedTuple):
    """What is done for a pruning.

    Attributes:
        prunings: How many prunings lead to the sparsity.
        between: The repair after each of them but the last.
        repair: The repair after the last.
        words: All of it in words.
    """

    prunings: int
    between: Repair
    repair: Repair
    words: str


def recipe(
    budget: float, pace: Pace, prunings: Sequence[int] = PRUNINGS, logits: float = 0.1, sparsity: float = 0.0
) -> Recipe:
    """What fits into a time, in the order in which it was found to help (``docs/strongest.md``).

    Least squares over other zeros, then alignment in what is left. Several prunings add nothing to that, so that there
    are as few as allowed. If it does not fit, see `recipe_keeping_zeros`.

    Args:
        budget: The time, in seconds.
        pace: How fast the machine is.
        prunings: The numbers that may be chosen, the largest first.
        logits: See `Align`.
        sparsity: What is reached.

    Example:
        >>> for seconds in (1, 12, 60, 600):
        ...     print(recipe(seconds, Pace(forward=0.5, reading=0.1, batches=4)).words)
        statistics and moments
        least squares
        least squares over other zeros
        least squares over other zeros, then 532 steps of alignment
    """
    number = prunings[-1]
    solving = _CHOICES * _solving(number, pace, sparsity) + number * pace.choosing
    seconds = number * _passing(_RESELECTION, pace) + solving
    if seconds > budget:
        return recipe_keeping_zeros(budget, pace, prunings, logits, sparsity)
    return _then_aligned(number, Reselect(), RESELECTED, budget - seconds, pace, logits)


def recipe_keeping_zeros(
    budget: float, pace: Pace, prunings: Sequence[int] = PRUNINGS, logits: float = 0.1, sparsity: float = 0.0
) -> Recipe:
    """What fits into a time where the zeros must stay as pruning chose them; see `recipe`.

    Least squares, if they fit; several prunings, each with least squares, that take half of the time; alignment in what
    is left. If not even least squares fit, the statistics and moments of ``"auto"``.

    Example:
        >>> for seconds in (1, 12, 60, 600):
        ...     print(recipe_keeping_zeros(seconds, Pace(forward=0.5, reading=0.1, batches=4)).words)
        statistics and moments
        least squares
        2 prunings, each with least squares
        12 prunings, each with least squares, then 427 steps of alignment
    """
    each = _passing(_RECONSTRUCTION, pace)
    seconds = {number: number * each + _solving(number, pace, sparsity) for number in prunings}
    number = next((number for number in prunings if seconds[number] <= budget / 2), prunings[-1])
    if seconds[number] > budget:
        return Recipe(number, Auto(), Auto(), f"{_several(number)}statistics and moments")
    return _then_aligned(number, Reconstruct(), FITTED, budget - seconds[number], pace, logits)


def _then_aligned(number: int, fit: Repair, name: str, left: float, pace: Pace, logits: float) -> Recipe:
    fitted, words = ThenBatchNorm(fit), f"{_several(number)}{name}"
    steps = min(_MOST_STEPS, int(left / (_STEP * pace.forward + pace.reading)))
    if steps < _LEAST_STEPS:
        return Recipe(number, fitted, fitted, words)
    aligned = ThenAlign(fitted, Align(steps=steps, logits=logits))
    return Recipe(number, fitted, aligned, f"{words}, then {steps} steps of alignment")


def _passing(passes: float, pace: Pace) -> float:
    """What a fit takes beside its equations: it costs so many passes, and reads the batches twice."""
    return (passes * pace.forward + 2 * pace.reading) * pace.batches


def _solving(prunings: int, pace: Pace, sparsity: float) -> float:
    """What equations take: rows of half as many weights an eighth; see `stepwise` for what each pruning leaves."""
    kept = [(1 - sparsity) ** (step / prunings) for step in range(1, prunings + 1)]
    cubes: float = sum(share**3 for share in kept)
    return pace.solving * cubes


def _several(number: int) -> str:
    return f"{number} prunings, each with " if number > 1 else ""
