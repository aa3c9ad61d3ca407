"""How far a training is, and what decides when to prune, and how far. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

UNKNOWN = "needs a training of known length: set Trainer(max_epochs=...) or max_steps"


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
