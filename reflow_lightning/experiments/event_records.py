"""What the prune events of a run did, as its report says it, over all of its starts."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from reflow_lightning.callbacks import Reflow
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.signal import SignalReport


class EventRecords(pl.Callback):
    """The prune events of a `Reflow`, in plain types, with those before the checkpoint that a run was resumed from.

    Args:
        reflow: Does the pruning.
    """

    def __init__(self, reflow: Reflow) -> None:
        self.reflow = reflow
        self._earlier: list[dict[str, Any]] = []

    def events(self) -> list[dict[str, Any]]:
        """All of them, in order; see `as_dict`."""
        return [*self._earlier, *map(as_dict, self.reflow.events)]

    def state_dict(self) -> dict[str, Any]:
        """All of them."""
        return {"events": self.events()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Those of before."""
        self._earlier = list(state_dict["events"])


def as_dict(event: PruneEvent) -> dict[str, Any]:
    """A prune event in plain types."""
    return {
        "step": event.step,
        "sparsity": event.sparsity,
        "coverage": event.coverage.to_dict(),
        "calibration": {"batches": event.calibration.batches, "layers": len(event.calibration.repaired)},
        "seconds": dict(event.seconds),
        "signal": {stage: report.to_dict() for stage, report in event.signal.items()},
        "recipe": event.recipe,
    }


def signal_of(events: list[dict[str, Any]]) -> dict[str, SignalReport]:
    """The signal at the last of several events; what came before a later one of a schedule was not dense."""
    signal = {stage: SignalReport.from_dict(report) for stage, report in events[-1]["signal"].items()}
    return signal if len(events) == 1 else {"before": signal.pop("dense"), **signal} if signal else signal
