"""What a schedule is: it decides when to prune, and how far. Plain Python."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

from reflow_lightning.schedules.progress import Length, Progress


@dataclass(frozen=True)
class RoundRule:
    """By what the rounds of a schedule are judged: the trainings that its prunings begin.

    Attributes:
        every_n_epochs: Epochs of a round.
        stop_on_drop: Largest drop of the metric that is good enough; ``None``: rounds are recorded, and not judged.
        monitor: The metric, as it is logged in the validation.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is.
    """

    every_n_epochs: int
    stop_on_drop: float | None
    monitor: str
    mode: str


class Schedule(Protocol):
    """Decides when a network is pruned, and how far.

    It holds no state: how far the training is, what happened before and the sparsity in the end are passed in. Write
    one as a frozen dataclass, and give it to `Reflow`; nothing has to be registered. A schedule may leave out
    ``allows_pattern``, which then counts as False, and ``rounds``, which counts as ``None``.

    Example:
        >>> @dataclass(frozen=True)
        ... class Halves:
        ...     '''Half of the sparsity at the start, all of it after an epoch.'''
        ...     def check(self, length, sparsity):
        ...         pass
        ...     def due(self, now, last):
        ...         return last is None or now.epoch > last.epoch
        ...     def sparsity(self, now, final):
        ...         return final if now.epoch else final / 2
        ...     def finished(self, last, final):
        ...         return last is not None and last.epoch > 0
        >>> check_schedule(Halves(), pattern=None)
        >>> check_schedule(Halves(), pattern="2:4")
        Traceback (most recent call last):
        ValueError: pattern='2:4' can't be reached gradually, as schedule=...Halves() does: use ...
    """

    @property
    def allows_pattern(self) -> bool:
        """Whether an ``"N:M"`` pattern can be asked for: no pruning is to less than the pattern prunes."""

    @property
    def rounds(self) -> RoundRule | None:
        """How the rounds are judged that its prunings begin; ``None``: it has no rounds."""

    def check(self, length: Length, sparsity: float) -> None:
        """Raise a ValueError if the schedule does not get to this sparsity in a training of this length."""

    def due(self, now: Progress, last: Progress | None) -> bool:
        """Whether it is time for the next pruning, given when the last was; not asked any more once it is finished."""

    def sparsity(self, now: Progress, final: float) -> float:
        """The sparsity to prune to now, of a training that shall end at ``final``."""

    def finished(self, last: Progress | None, final: float) -> bool:
        """Whether nothing is to come, given when the last pruning was."""


_METHODS = {
    "check": ("length", "sparsity"),
    "due": ("now", "last"),
    "sparsity": ("now", "final"),
    "finished": ("last", "final"),
}


def check_schedule(schedule: Any, pattern: str | None, steps: int = 1) -> None:
    """Check that an object is a whole schedule, and that the pattern can be reached with it, in so many steps.

    Raises:
        ValueError: If not; it says what to write, or what to use.

    Example:
        >>> check_schedule("one_shot", None)
        Traceback (most recent call last):
        ValueError: schedule='one_shot' must be a schedule: OneShot(...), Gradual(...) or Iterative(...), or your own
    """
    missing = [name for name in _METHODS if not callable(getattr(schedule, name, None))]
    if isinstance(schedule, type):
        raise ValueError(f"schedule={schedule.__name__} is a class: pass an instance, {schedule.__name__}(...)")
    if len(missing) == len(_METHODS):
        raise ValueError(
            f"schedule={schedule!r} must be a schedule: OneShot(...), Gradual(...) or Iterative(...), or your own"
        )
    wrong = [
        f"{name}({', '.join(arguments)})"
        for name, arguments in _METHODS.items()
        if name in missing or not _takes(getattr(schedule, name), len(arguments))
    ]
    if wrong:
        old = ", the absolute sparsity in the place of share(now)" if hasattr(schedule, "share") else ""
        asked = "" if pattern is None else f", and allows_pattern = True if it can reach pattern={pattern!r}"
        raise ValueError(
            f"schedule={schedule!r} needs {', '.join(wrong)}{old}: write what `Schedule` in reflow_lightning.schedules "
            f"describes{asked}"
        )
    if pattern is not None and not getattr(schedule, "allows_pattern", False):
        raise ValueError(
            f"pattern={pattern!r} can't be reached gradually, as schedule={schedule!r} does: use "
            "schedule=OneShot(...), or let a schedule of your own that never prunes to less than the pattern does say "
            "allows_pattern = True"
        )
    if steps > 1 and not getattr(schedule, "allows_pattern", False):
        raise ValueError(
            f"steps={steps} prunes several times at one moment, but schedule={schedule!r} spreads prunings over the "
            "training: use schedule=OneShot(...), or steps=1"
        )


def rounds_of(schedule: Schedule) -> RoundRule | None:
    """How the rounds of a schedule are judged; ``None``: it has none, or does not say so."""
    return getattr(schedule, "rounds", None)


def _takes(method: Any, arguments: int) -> bool:
    """Whether a method can be called with so many arguments; what does not tell is taken to."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True
