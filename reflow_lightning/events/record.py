"""What is known of a prune event when it is over. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reflow_lightning.calibration import Calibration
from reflow_lightning.signal import SignalReport


@dataclass(frozen=True)
class PruneEvent:
    """What one prune event did.

    Attributes:
        step: Optimizer steps done before.
        sparsity: Share of the selected weights that are pruned since.
        sparsities: The same by parameter name.
        calibration: What the repair did.
        seconds: Time taken, by ``"prune"`` and ``"repair"``.
        signal: The signal of the dense, the pruned and the repaired network, if it was measured.
    """

    step: int
    sparsity: float
    sparsities: Mapping[str, float] = field(repr=False)
    calibration: Calibration
    seconds: Mapping[str, float]
    signal: Mapping[str, SignalReport] = field(default_factory=dict, repr=False)

    def settled(self) -> PruneEvent:
        """The same record, which can't be undone and holds nothing of the model."""
        return replace(self, calibration=self.calibration.settled())
