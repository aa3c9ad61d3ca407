"""Prune more and more, along a curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from reflow_lightning.schedules.progress import UNKNOWN, Length, Progress


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
        >>> schedule.sparsity(Progress(step=100, epoch=1, fraction=0.25), final=0.5)
        0.4375
    """

    begin: float = 0.0
    end: float = 0.75
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    curve: str = "cubic"

    allows_pattern: ClassVar[bool] = False
    rounds: ClassVar[None] = None

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

    def check(self, length: Length, sparsity: float) -> None:
        """Raise a ValueError if fractions of the training are not defined."""
        if not length.known:
            raise ValueError(f"Gradual(begin={self.begin}, end={self.end}) {UNKNOWN}")

    def due(self, now: Progress, last: Progress | None) -> bool:
        """Whether it is time for the next pruning, or the end is reached."""
        if now.fraction is None or now.fraction < self.begin:
            return False
        if last is None or now.fraction >= self.end:
            return True
        if self.every_n_steps is not None:
            return now.step - last.step >= self.every_n_steps
        return now.epoch - last.epoch >= (self.every_n_epochs or 1)

    def sparsity(self, now: Progress, final: float) -> float:
        """The curve's value, of ``final``."""
        x = ((now.fraction or 0.0) - self.begin) / (self.end - self.begin)
        return CURVES[self.curve](min(max(x, 0.0), 1.0)) * final

    def finished(self, last: Progress | None, final: float) -> bool:
        """Whether the end was reached."""
        return last is not None and last.fraction is not None and last.fraction >= self.end
