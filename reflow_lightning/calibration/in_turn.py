"""Repairs one after the other, and what they did as one record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from reflow_lightning.calibration.repair import (
    Calibration,
    Repair,
    between_prunings,
    keeping_zeros,
    leaves_undo_to_caller,
    needs_reference,
    run,
    unit_by_unit,
    writes_weights,
)
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.snapshot import Snapshots


@dataclass(frozen=True)
class InTurn:
    """Repairs one after the other; if one fails, those before it are undone.

    Args:
        repairs: The repairs.
    """

    repairs: Sequence[Repair]
    restores_itself: ClassVar[bool] = True

    def leaves_undo_to_caller(self) -> bool:
        """Whether all of them do."""
        return all(map(leaves_undo_to_caller, self.repairs))

    def unit_by_unit(self) -> bool:
        """Whether all of them do."""
        return all(map(unit_by_unit, self.repairs))

    @property
    def writes_weights(self) -> bool:
        """Whether one of the repairs does."""
        return any(map(writes_weights, self.repairs))

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether one of the repairs does."""
        return any(needs_reference(repair, model) for repair in self.repairs)

    def keeping_zeros(self) -> Repair:
        """What stands for each of them."""
        found = [keeping_zeros(repair) for repair in self.repairs]
        return self if found == list(self.repairs) else InTurn(found)

    def between_prunings(self, model: nn.Module) -> Repair:
        """What stands for each of them."""
        return InTurn([between_prunings(repair, model) for repair in self.repairs])

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        start = time.perf_counter()
        done: list[Calibration] = []
        try:
            done.extend(run(repair, model, batches, forward, reference) for repair in self.repairs)
        except BaseException:
            for calibration in reversed(done):
                calibration.undo()
            raise
        return joined(done, time.perf_counter() - start)


def joined(done: Sequence[Calibration], seconds: float) -> Calibration:
    """Several calibrations as one.

    Example:
        >>> first, second = Calibration(("a",), {"b": "no batch"}, 3, 0.1), Calibration(("b", "a"), {}, 2, 0.1)
        >>> both = joined([first, second], 0.2)
        >>> both.repaired, dict(both.skipped), both.batches
        (('a', 'b'), {}, 3)
    """
    how: dict[str, list[str]] = {}
    for calibration in done:
        for name in calibration.repaired:
            how.setdefault(name, []).append(calibration.how.get(name, "repaired"))
    skipped = {name: reason for calibration in done for name, reason in calibration.skipped.items()}
    return Calibration(
        tuple(how),
        {name: reason for name, reason in skipped.items() if name not in how},
        max((calibration.batches for calibration in done), default=0),
        seconds,
        Snapshots(calibration.before for calibration in done),
        {name: ", then ".join(dict.fromkeys(steps)) for name, steps in how.items()},
    )
