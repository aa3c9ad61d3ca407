"""A repair, then alignment as far as it is possible."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from reflow_lightning.calibration.align import Align
from reflow_lightning.calibration.in_turn import joined
from reflow_lightning.calibration.repair import (
    Calibration,
    Repair,
    keeping_zeros,
    leaves_undo_to_caller,
    run,
    undone_if_it_fails,
)
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.processes import warn


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

    def keeping_zeros(self) -> Repair:
        """The same with what stands for the first repair."""
        return ThenAlign(keeping_zeros(self.first), self.align)

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
