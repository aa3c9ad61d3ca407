"""Where a training is in its schedule: whether a pruning is due, to what sparsity, and whether all is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import lightning.pytorch as pl

from reflow_lightning.callbacks.judge import NoJudge, judge_of
from reflow_lightning.pruning import Masks
from reflow_lightning.running.describing import as_texts
from reflow_lightning.running.processes import warn
from reflow_lightning.schedules import Progress, Schedule

_BELOW_ONE = math.nextafter(1.0, 0.0)  # of few weights all may be gone by rounding; 1.0 is no sparsity to ask for


class Target(NamedTuple):
    """What a pruning shall reach.

    Attributes:
        sparsity: The sparsity.
        is_last: No pruning follows.
    """

    sparsity: float
    is_last: bool


class Course:
    """What a schedule says of a training, and where that is.

    Args:
        schedule: Decides when and how far.
        final: The sparsity in the end.

    Attributes:
        last: When the schedule was last followed.
        judge: Judges the schedule's rounds, if it has any.

    Example:
        >>> from reflow_lightning import OneShot
        >>> course, now = Course(OneShot(), final=0.9), Progress(step=0, epoch=0, fraction=0.0)
        >>> course.is_due(now), course.target(now, reached=0.0)
        (True, Target(sparsity=0.9, is_last=True))
    """

    def __init__(self, schedule: Schedule, final: float) -> None:
        self.schedule = schedule
        self.final = final
        self.last: Progress | None = None
        self.judge: NoJudge = judge_of(schedule)
        self._is_as_before = True  # it was followed for the same sparsity until now

    @property
    def is_finished(self) -> bool:
        """Whether the schedule was followed to its end."""
        return self.schedule.finished(self.last, self.final)

    @property
    def is_completed(self) -> bool:
        """Whether all pruning is done, by the schedule or since a round was not good enough."""
        return self.is_finished or self.judge.rounds.is_done

    def is_due(self, now: Progress) -> bool:
        """Whether it is time for the next pruning."""
        return not self.is_completed and self.schedule.due(now, self.last)

    def target(self, now: Progress, reached: float) -> Target | None:
        """What to prune to now, given what was reached; ``None``: the schedule asks for nothing more at this moment."""
        pruned = min(reached, _BELOW_ONE)
        sparsity = max(self.schedule.sparsity(now, self.final), pruned)  # a longer training may lower it
        is_last = self.schedule.finished(now, self.final)
        return Target(sparsity, is_last) if sparsity > pruned or is_last else None

    def judge_round(self, trainer: pl.Trainer, steps: int, epochs: int) -> None:
        """So many steps and epochs are over: judge the round that ends with them, if one does."""
        if self.is_due(Progress(steps, epochs, None)):
            self.judge.judge(trainer)

    def warn_of_no_effect(self, masks: Masks | None) -> None:
        """Warn if a training begins after the end of the schedule, and short of the sparsity."""
        rounds = self.judge.rounds
        as_asked = self._is_as_before and not (rounds.over or rounds.stopped)  # less is by rounding, ties or patterns
        is_over = self.is_finished or rounds.over
        if masks is not None and is_over and not as_asked and not masks.reaches(self.final):
            warn(
                f"sparsity={self.final} has no effect: {self.schedule} was completed before this fit, at sparsity "
                f"{masks.sparsity:.4f}; use a new Reflow, without its state in the checkpoint, to prune further"
            )

    def warn_of_the_end(self, step: int, reached: float) -> None:
        """Warn that a training ended before the schedule did."""
        warn(
            f"training ended at step {step} before {self.schedule} was completed: sparsity is {reached:.4f} instead "
            f"of {self.final}; train longer, or prune earlier"
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {"last": None if self.last is None else asdict(self.last), "rounds": self.judge.state_dict()}

    def resumed(self, state: Mapping[str, Any]) -> Course:
        """The same, where `state_dict` was.

        Raises:
            ValueError: If the rounds were saved by a newer version.
        """
        course = Course(self.schedule, self.final)
        course.last = None if state["last"] is None else Progress(**state["last"])
        arguments = state.get("arguments", {})  # which older versions did not save
        course._is_as_before = arguments.get("sparsity") == as_texts({"sparsity": self.final})["sparsity"]
        if (rounds := state.get("rounds")) is not None:
            course.judge.load_state_dict(rounds)
        return course
