"""How far a training is, and how long it will be. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass

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
