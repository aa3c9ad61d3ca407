"""When to prune, and how much of the final sparsity by then. Plain Python: progress in, decision out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        step: Optimizer steps done, as ``trainer.global_step``.
        epoch: Epochs completed.
        fraction: Share of the training done, in [0, 1]; ``None`` where its length is unknown.
    """

    step: int
    epoch: int
    fraction: float | None


@dataclass(frozen=True)
class Length:
    """How long a training will be; ``None`` where that is unknown.

    Attributes:
        steps: Optimizer steps.
        epochs: Epochs.
        known: Whether fractions of the training are defined.
    """

    steps: int | None
    epochs: int | None
    known: bool


@runtime_checkable
class Schedule(Protocol):
    """Decides when a network is pruned, and how far. It holds no state: what happened before is passed in."""

    def check(self, length: Length) -> None:
        """Raise a ValueError if the schedule does not fit a training of this length."""

    def due(self, now: Progress, last: Progress | None) -> bool:
        """Whether it is time, given when it last was."""

    def share(self, now: Progress) -> float:
        """Share of the final sparsity, in [0, 1]."""

    def finished(self, last: Progress | None) -> bool:
        """Whether nothing is to come, given when it last was time."""


@dataclass(frozen=True, kw_only=True, repr=False)
class OneShot:
    """Prune once: at an optimizer step, at the start of an epoch or at a fraction of the training, else at its start.

    Args:
        step: After so many optimizer steps.
        epoch: After so many epochs, so that the validation of the last of them still sees the dense network.
        fraction: After this share of the training; 1.0 prunes after its last step, before its last validation. A
            training that is stopped early never gets there.

    Example:
        >>> OneShot(epoch=10).due(Progress(step=0, epoch=9, fraction=0.9), last=None)
        False
        >>> OneShot().due(Progress(step=0, epoch=0, fraction=0.0), last=None)
        True
    """

    step: int | None = None
    epoch: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                f"OneShot got {given}: give one of step, epoch and fraction, and None (null) for the others"
            )
        for name, value in given.items():
            kind = (int, float) if name == "fraction" else int
            valid = isinstance(value, kind) and not isinstance(value, bool) and value >= 0
            if not valid or (name == "fraction" and value > 1):
                expected = "in [0, 1]" if name == "fraction" else "a whole number of at least 0"
                raise ValueError(f"OneShot({name}={value!r}) must be {expected}")

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in vars(self).items() if value is not None)
        return f"OneShot({given})"

    def check(self, length: Length) -> None:
        """Raise a ValueError if that moment never comes."""
        if self.step is not None and length.steps is not None and self.step > length.steps:
            raise ValueError(
                f"OneShot(step={self.step}) lies beyond the end of training, step {length.steps}: "
                "use a smaller step, or fraction=1.0 to prune after the last step"
            )
        if self.epoch is not None and length.epochs is not None and self.epoch >= length.epochs:
            raise ValueError(
                f"OneShot(epoch={self.epoch}) lies beyond the last epoch, {length.epochs - 1}: "
                "use a smaller epoch, or fraction=1.0 to prune after the last step"
            )
        if self.fraction and not length.known:
            raise ValueError(f"OneShot(fraction={self.fraction}) {_UNKNOWN}, or use step or epoch")

    def due(self, now: Progress, last: Progress | None) -> bool:
        """Whether the moment has come and was not used."""
        if last is not None:
            return False
        if self.step is not None:
            return now.step >= self.step
        if self.epoch is not None:
            return now.epoch >= self.epoch
        return not self.fraction or (now.fraction is not None and now.fraction >= self.fraction)

    def share(self, now: Progress) -> float:
        """All of it."""
        return 1.0

    def finished(self, last: Progress | None) -> bool:
        """Whether it has been time."""
        return last is not None


_UNKNOWN = "needs a training of known length: set Trainer(max_epochs=...) or max_steps"


def cubic(x: float) -> float:
    """``1 - (1 - x)^3``: fast while much is left (Zhu & Gupta, arXiv 1710.01878)."""
    return 1 - (1 - x) ** 3


def linear(x: float) -> float:
    """``x``."""
    return x


CURVES: dict[str, Callable[[float], float]] = {"cubic": cubic, "linear": linear}


@dataclass(frozen=True, kw_only=True)
class Gradual:
    """Prune more and more: ``s(t) = s_final * curve((t - begin) / (end - begin))`` at regular moments.

    With the cubic curve that is ``s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3`` of *To prune, or not to prune* (Zhu &
    Gupta, arXiv 1710.01878), with ``s_i = 0``. The final sparsity is reached as soon as ``end`` is, in any rhythm.

    Args:
        begin: Fraction of the training at which it starts, from zero sparsity.
        end: Fraction at which the final sparsity is reached.
        every_n_steps: Optimizer steps between two prunings.
        every_n_epochs: Epochs between two prunings. If neither is given: 1.
        curve: ``"cubic"`` or ``"linear"``.

    Example:
        >>> schedule = Gradual(begin=0.0, end=0.5, every_n_steps=100)
        >>> schedule.share(Progress(step=100, epoch=1, fraction=0.25))
        0.875
    """

    begin: float = 0.0
    end: float = 0.75
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    curve: str = "cubic"

    def __post_init__(self) -> None:
        numbers = all(isinstance(value, (int, float)) for value in (self.begin, self.end))
        if not numbers or not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"Gradual(begin={self.begin!r}, end={self.end!r}) are fractions of the training: "
                "they must satisfy 0 <= begin < end <= 1"
            )
        if self.every_n_steps is not None and self.every_n_epochs is not None:
            raise ValueError(
                f"Gradual(every_n_steps={self.every_n_steps}, every_n_epochs={self.every_n_epochs}): give one of them"
            )
        for name in ("every_n_steps", "every_n_epochs"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"Gradual({name}={value!r}) must be a whole number of at least 1")
        if self.curve not in CURVES:
            raise ValueError(f"Gradual(curve={self.curve!r}) is unknown: use one of {sorted(CURVES)}")

    def check(self, length: Length) -> None:
        """Raise a ValueError if fractions of the training are not defined."""
        if not length.known:
            raise ValueError(f"Gradual(begin={self.begin}, end={self.end}) {_UNKNOWN}")

    def due(self, now: Progress, last: Progress | None) -> bool:
        """Whether it is time for the next pruning, or the end is reached."""
        if now.fraction is None or now.fraction < self.begin or self.finished(last):
            return False
        if last is None or now.fraction >= self.end:
            return True
        if self.every_n_steps is not None:
            return now.step - last.step >= self.every_n_steps
        return now.epoch - last.epoch >= (self.every_n_epochs or 1)

    def share(self, now: Progress) -> float:
        """The curve's value."""
        x = ((now.fraction or 0.0) - self.begin) / (self.end - self.begin)
        return CURVES[self.curve](min(max(x, 0.0), 1.0))

    def finished(self, last: Progress | None) -> bool:
        """Whether the end was reached."""
        return last is not None and last.fraction is not None and last.fraction >= self.end
