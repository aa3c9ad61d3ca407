"""The strongest repair that fits into a time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from reflow_lightning.calibration.align import Align
from reflow_lightning.calibration.auto import Auto, ThenBatchNorm
from reflow_lightning.calibration.reconstruct import Reconstruct
from reflow_lightning.calibration.repair import (
    Calibration,
    Repair,
    joined,
    leaves_undo_to_caller,
    run,
    undone_if_it_fails,
)
from reflow_lightning.running.batches import Batches, device_of
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.running.sharding import sharded_modules

PRUNINGS = (12, 8, 4, 2, 1)
"""Numbers of prunings that may be chosen, the largest first."""

AUTO_BATCHES = 20
"""So many are expected where the number is ``"auto"``."""

_RECONSTRUCTION = 5.0  # costs so many bare passes of a network and the dense one over the batches, which are read twice
_STEP = 2.0  # of alignment costs so many bare passes of both over its batch, which is read once
_LEAST_STEPS, _MOST_STEPS = 100, 1000
_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


def seconds_of(budget: float | str) -> float:
    """A time in seconds, of a number of seconds or a text such as ``"90s"``, ``"5min"`` or ``"1h"``.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> seconds_of("1.5min"), seconds_of(10)
        (90.0, 10.0)
        >>> seconds_of("soon")
        Traceback (most recent call last):
        ValueError: budget='soon' must be a number of seconds or a time such as '90s', '5min' or '1h'
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", budget) if isinstance(budget, str) else None
    try:
        seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else float(budget)
    except (KeyError, TypeError, ValueError):
        seconds = -1.0
    if isinstance(budget, bool) or not 0 < seconds < float("inf"):
        raise ValueError(f"budget={budget!r} must be a number of seconds or a time such as '90s', '5min' or '1h'")
    return seconds


class Recipe(NamedTuple):
    """What is done for a pruning.

    Attributes:
        prunings: So many lead to the sparsity.
        between: The repair after each of them but the last.
        repair: The repair after the last.
        words: All of it in words.
    """

    prunings: int
    between: Repair
    repair: Repair
    words: str


class Pace(NamedTuple):
    """How fast a machine is.

    Attributes:
        forward: Seconds in which the network and the dense one run on a batch.
        reading: Seconds to read a batch.
        batches: Number of batches.
    """

    forward: float
    reading: float
    batches: int


def recipe(budget: float, pace: Pace, prunings: Sequence[int] = PRUNINGS, logits: float = 0.1) -> Recipe:
    """What fits into a time, in the order in which it was found to help (``docs/strongest.md``).

    Least squares, if they fit; several prunings, each with least squares, that take half of the time; alignment in what
    is left. If not even least squares fit, the statistics and moments of ``"auto"``.

    Args:
        budget: The time, in seconds.
        pace: How fast the machine is.
        prunings: The numbers that may be chosen, the largest first; the last is taken if none fits.
        logits: See `Align`.

    Example:
        >>> for seconds in (1, 12, 60, 600):
        ...     print(recipe(seconds, Pace(forward=0.5, reading=0.1, batches=4)).words)
        statistics and moments
        least squares
        2 prunings, each with least squares
        12 prunings, each with least squares, then 427 steps of alignment
    """
    each = (_RECONSTRUCTION * pace.forward + 2 * pace.reading) * pace.batches
    step = _STEP * pace.forward + pace.reading
    number = next((number for number in prunings if number * each <= budget / 2), prunings[-1])
    several = f"{number} prunings, each with " if number > 1 else ""
    if number * each > budget:
        return Recipe(number, Auto(), Auto(), f"{several}statistics and moments")
    fitted = ThenBatchNorm(Reconstruct())
    steps = min(_MOST_STEPS, int((budget - number * each) / step))
    if steps < _LEAST_STEPS:
        return Recipe(number, fitted, fitted, f"{several}least squares")
    words = f"{several}least squares, then {steps} steps of alignment"
    return Recipe(number, fitted, ThenAlign(fitted, Align(steps=steps, logits=logits)), words)


@dataclass(frozen=True)
class ThenAlign:
    """A repair, then alignment; where that is impossible, a warning says why, and the first stays.

    Args:
        first: The repair.
        align: The alignment.
    """

    first: Repair
    align: Align
    writes_weights: ClassVar[bool] = True
    restores_itself: ClassVar[bool] = True

    def leaves_undo_to_caller(self) -> bool:
        """Whether the first repair does."""
        return leaves_undo_to_caller(self.first)

    def needs_reference(self, model: nn.Module) -> bool:
        """Both compare with the dense network."""
        return True

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        first = run(self.first, model, batches, forward, reference)
        with undone_if_it_fails(first):
            try:
                second = self.align(model, batches, forward, reference)
            except Exception as error:
                warn(f"alignment was left out, and least squares stay: {error}")
                return first
        return joined([first, second], first.seconds + second.seconds)


@dataclass(frozen=True)
class Best:
    """The strongest repair that fits into a time; see `recipe`.

    How much fits depends on how fast the machine is, which is measured on the first batch. So two machines may choose
    otherwise, and one may on another day; `PruneEvent.recipe` says what was done, and it can be asked for by name.
    A prune event may take several prunings; `calibrate`, which finds the weights pruned already, does not.

    Args:
        budget: The time, in seconds or such as ``"5min"``. It is kept roughly: small networks, whose layers cost more
            than their arithmetic, take longer.
        logits: See `Align`.

    Example:
        >>> Best("90s").budget
        '90s'
    """

    writes_weights: ClassVar[bool] = False  # where they are spread over processes, it does without
    restores_itself: ClassVar[bool] = True
    leaves_undo_to_caller: ClassVar[bool] = True
    budget: float | str = "1min"
    logits: float = 0.1

    def __post_init__(self) -> None:
        seconds_of(self.budget)
        Align(logits=self.logits)

    def needs_reference(self, model: nn.Module) -> bool:
        """All but statistics compare with the dense network."""
        return not sharded_modules(model)

    def between_prunings(self, model: nn.Module) -> Repair:
        """What `Auto` does between the prunings of a schedule: training goes on there anyway."""
        return Auto().between_prunings(model)

    def recipe(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, prunings: Sequence[int] = PRUNINGS
    ) -> Recipe:
        """Choose for a model.

        Args:
            model: The model.
            batches: They are counted, and the first is run.
            forward: Runs a network on a batch.
            prunings: See `recipe`.
        """
        found = Pace(0.0, 0.0, 0) if sharded_modules(model) else _pace(model, batches, forward)
        slowest = Pace(*(max(of_all) for of_all in zip(*gather(found), strict=True)))
        if not slowest.forward:
            return Recipe(prunings[-1], Auto(), Auto(), "statistics and moments")
        return recipe(seconds_of(self.budget), slowest, prunings, self.logits)

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        if reference is None:
            return run(Auto(), model, batches, forward, reference)
        chosen = self.recipe(model, batches, forward, prunings=(1,)).repair
        return run(chosen, model, batches, forward, reference)


@torch.no_grad()
def _pace(model: nn.Module, batches: Iterable[Any], forward: Forward) -> Pace:
    """The median of three passes over the first batch, after one that warms up, and a pass through the loader."""
    device, passes, count = device_of(model), [0.0], 0
    most = AUTO_BATCHES if isinstance(batches, Batches) and batches.auto else None
    begun = _now(device)
    with only_training(model, ()):
        for count, batch in enumerate(islice(batches, most), start=1):
            if count == 1:
                passes = [_seconds(model, batch, forward) for _ in range(4)]
    reading = (_now(device) - begun - sum(passes)) / max(1, count)
    return Pace(2 * median(passes[1:] or passes), reading, count)


def _seconds(model: nn.Module, batch: Any, forward: Forward) -> float:
    start = _now(device_of(model))
    forward(model, batch)
    return _now(device_of(model)) - start


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
