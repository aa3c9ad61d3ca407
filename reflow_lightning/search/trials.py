"""What a search for the sparsest network tried and found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from reflow_lightning.pruning import Masks
from reflow_lightning.running.snapshot import Snapshot

_ROUNDING = 1e-6  # of the dense score, many times float32's: 0.9175 - 0.9075 is a drop of 0.01


class Trial(NamedTuple):
    """One sparsity that was tried: what ``evaluate`` gave, and the seconds of pruning, repair and evaluation."""

    sparsity: float
    score: float
    seconds: float


@dataclass(frozen=True)
class Search:
    """What `find_sparsity` found.

    Attributes:
        sparsity: Share of the selected weights that are zero now; 0 if no sparsity was within the drop.
        masks: The masks of that sparsity.
        score: The score of the model as it is now; one of the trials', or the dense one's.
        dense_score: The score of the dense model.
        max_drop: What the score may lose.
        trials: All that was measured, in that order.
    """

    sparsity: float
    masks: Masks
    score: float
    dense_score: float
    max_drop: float
    trials: tuple[Trial, ...]
    _dense: Snapshot | None = field(default=None, repr=False)

    def undo(self) -> None:
        """Put the dense model back, bit for bit."""
        if self._dense is not None:
            self._dense.restore()

    def is_within(self, score: float) -> bool:
        """Whether a score is within the drop."""
        return is_within(score, self.dense_score, self.max_drop)

    def __str__(self) -> str:
        rows = [
            f"{trial.sparsity:>8.4f}  {trial.score:>10.4f}  {trial.score - self.dense_score:>+10.4f}  "
            f"{'yes' if self.is_within(trial.score) else 'no':>6}  {trial.seconds:>7.2f}"
            for trial in sorted(self.trials)
        ]
        head = f"{'sparsity':>8}  {'score':>10}  {'change':>10}  {'within':>6}  {'seconds':>7}"
        found = f"sparsity {self.sparsity:.4f}" if self.sparsity else "nothing within the drop, the model is dense"
        end = f"found: {found}, score {self.score:.4f}; dense {self.dense_score:.4f}, max_drop {self.max_drop:g}"
        return "\n".join([head, *rows, end])


def is_within(score: float, dense_score: float, max_drop: float) -> bool:
    """Whether a score is at most ``max_drop`` below the dense one, apart from rounding.

    Example:
        >>> is_within(0.9075, 0.9175, max_drop=0.01), is_within(0.907, 0.9175, max_drop=0.01)
        (True, False)
    """
    return dense_score - score <= max_drop + _ROUNDING * abs(dense_score)
