"""Prune once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reflow_lightning.schedules.progress import UNKNOWN, Length, Progress


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

    allows_pattern: ClassVar[bool] = True
    rounds: ClassVar[None] = None

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

    def check(self, length: Length, sparsity: float) -> None:
        """Raise a ValueError if that moment never comes."""
        if self.step is not None and length.steps is not None and self.step > length.steps:
            raise ValueError(
                f"OneShot(step={self.step}) lies beyond the end of training, step {length.steps}: "
                "use a smaller step, or fraction=1.0 to prune after the last step"
            )
        if self.epoch is not None and length.epochs is not None and self.epoch >= length.epochs:
            raise ValueError(
                f"OneShot(epoch={self.epoch}) lies beyond the last epoch, {length.epochs - 1}: they count "
                "from 0; use a smaller epoch, or fraction=1.0 to prune after the last step"
            )
        if self.fraction and not length.known:
            raise ValueError(f"OneShot(fraction={self.fraction}) {UNKNOWN}, or use step or epoch")

    def due(self, now: Progress, last: Progress | None) -> bool:
        """Whether the moment has come and was not used."""
        if last is not None:
            return False
        if self.step is not None:
            return now.step >= self.step
        if self.epoch is not None:
            return now.epoch >= self.epoch
        return not self.fraction or (now.fraction is not None and now.fraction >= self.fraction)

    def sparsity(self, now: Progress, final: float) -> float:
        """The final sparsity."""
        return final

    def finished(self, last: Progress | None, final: float) -> bool:
        """Whether the network was pruned."""
        return last is not None
