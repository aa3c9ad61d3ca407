"""What is known of a prune event when it is over. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from reflow_lightning.calibration import Calibration
from reflow_lightning.pruning import Coverage
from reflow_lightning.signal import SignalReport


class PruneStep(NamedTuple):
    """One of several prunings at a moment.

    Attributes:
        sparsity: Share of the selected weights that are pruned since.
        prune: Seconds to choose the weights.
        repair: Seconds of the repair.
    """

    sparsity: float
    prune: float
    repair: float


@dataclass(frozen=True)
class PruneEvent:
    """What one prune event did.

    Attributes:
        step: Optimizer steps done before.
        sparsity: Share of the selected weights that are pruned since.
        sparsities: The same by parameter name.
        calibration: What the repair did.
        coverage: What is pruned of all matrices of the model, and which were left.
        seconds: Time taken, by ``"prune"`` and ``"repair"``, and in ``"total"``, with measuring and copying.
        signal: The signal of the dense, the pruned and the repaired network, if it was measured.
        steps: The prunings that it consists of.
        recipe: What ``repair="best"`` chose to do, in words; else ``""``.
    """

    step: int
    sparsity: float
    sparsities: Mapping[str, float] = field(repr=False)
    calibration: Calibration
    seconds: Mapping[str, float]
    coverage: Coverage
    signal: Mapping[str, SignalReport] = field(default_factory=dict, repr=False)
    steps: tuple[PruneStep, ...] = ()
    recipe: str = ""

    def settled(self) -> PruneEvent:
        """The same record, which can't be undone and holds nothing of the model."""
        return replace(self, calibration=self.calibration.settled())


def seconds_of(steps: Sequence[PruneStep], total: float) -> dict[str, float]:
    """The time that prunings and repairs took, and all of it together.

    Example:
        >>> seconds_of([PruneStep(0.5, 1.0, 2.0), PruneStep(0.75, 1.0, 3.0)], total=8.0)
        {'prune': 2.0, 'repair': 5.0, 'total': 8.0}
    """
    return {"prune": sum(step.prune for step in steps), "repair": sum(step.repair for step in steps), "total": total}
