"""Rounds of pruning and training are judged by their validations. Plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from reflow_lightning.rounds.kept import Kept
from reflow_lightning.running.formats import check_format
from reflow_lightning.search import is_within

FORMAT = 1
"""Number of the format of `Rounds.state_dict`; version 0.1 wrote none."""


@dataclass(frozen=True)
class Round:
    """What is known of a round.

    Attributes:
        number: 0 is the dense network.
        sparsity: Share of the selected weights that are pruned.
        epoch: Epochs that were completed before the one of its best validation; ``None`` before there is one.
        step: Optimizer steps done by then.
        value: The metric.
        kept: Whether that is good enough.
    """

    number: int
    sparsity: float
    epoch: int | None = None
    step: int | None = None
    value: float | None = None
    kept: bool = False


class Rounds:
    """Compares each round with the dense network, and keeps the best network of the last that was good enough.

    It holds two networks in the CPU's memory: that, and the best of the round that is running.

    Args:
        stop_on_drop: Largest drop of the metric that is good enough; ``None``: nothing is judged or kept.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is.

    Attributes:
        rows: The rounds so far, the dense network first; the last is running.
        stopped: Whether a round was not good enough.
        over: Whether the training has ended; then nothing more is judged.

    Example:
        >>> from torch import nn
        >>> rounds, model = Rounds(stop_on_drop=0.01), nn.Linear(1, 1)
        >>> for sparsity, value in ((0.0, 0.90), (0.5, 0.895), (0.75, 0.7)):
        ...     rounds.begin(sparsity)
        ...     rounds.validated(value, epoch=0, step=0, keep=lambda: Kept.of(model, None))
        >>> rounds.judge(), [row.kept for row in rounds.rows]
        (False, [True, True, False])
    """

    def __init__(self, stop_on_drop: float | None, mode: str = "max") -> None:
        self.stop_on_drop = stop_on_drop
        self.sign = 1 if mode == "max" else -1
        self.rows: tuple[Round, ...] = ()
        self.stopped = self.over = False
        self._accepted: Kept | None = None
        self._best: Kept | None = None  # of the running round

    def begin(self, sparsity: float) -> None:
        """The next round begins, or with the first call the dense training."""
        self._accepted, self._best = self._winner, None
        self.rows = (*self.rows, Round(len(self.rows), sparsity))

    def validated(self, value: float, *, epoch: int, step: int, keep: Callable[[], Kept]) -> None:
        """Hear of a validation; of equal ones in a round the later counts, which was trained longer.

        Args:
            value: The metric; NaN is worse than any number.
            epoch: Epochs completed.
            step: Optimizer steps done.
            keep: Copies the network, if it is the best of its round.
        """
        running = self.rows[-1]
        if self.is_done or (running.value is not None and self._score(value) < self._score(running.value)):
            return
        kept = running.number == 0 or self._is_good(value)
        self.rows = (*self.rows[:-1], replace(running, epoch=epoch, step=step, value=value, kept=kept))
        self._best = None if self.stop_on_drop is None else keep()

    def judge(self) -> bool:
        """Whether the next round may begin; a round without a validation does not stop it."""
        self.stopped = self.stopped or (self.rows[-1].value is not None and not self.rows[-1].kept)
        return not self.stopped

    def end(self) -> Kept | None:
        """The training has ended: the network to return to, if something was judged. Nothing is held afterwards."""
        winner = self._winner
        self._accepted = self._best = None
        self.over = self.stop_on_drop is not None
        if self.over and winner is None:  # as after rounds that were trained without stop_on_drop, and resumed with it
            self.rows = tuple(replace(row, kept=False) for row in self.rows)
        return winner

    @property
    def is_done(self) -> bool:
        """Whether no round may follow."""
        return self.stopped or self.over

    @property
    def returned(self) -> Round | None:
        """The round whose network the training ended with."""
        return next((row for row in reversed(self.rows) if row.kept), None) if self.over else None

    @property
    def _winner(self) -> Kept | None:
        return self._best if self._best is not None and self.rows[-1].kept else self._accepted

    def _is_good(self, value: float) -> bool:
        baseline = self.rows[0].value
        if self.stop_on_drop is None or baseline is None:
            return True
        return is_within(self._score(value), self._score(baseline), self.stop_on_drop)

    def _score(self, value: float) -> float:
        return -math.inf if math.isnan(value) else self.sign * value

    def state_dict(self) -> dict[str, Any]:
        """Plain types only."""
        kept = {"accepted": self._accepted, "best": self._best}
        return {
            "format": FORMAT,
            "rows": [asdict(row) for row in self.rows],
            "stopped": self.stopped,
            "over": self.over,
            **{name: None if network is None else network.state_dict() for name, network in kept.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was.

        Raises:
            ValueError: If it was saved by a newer version, or the masks in it are damaged; nothing is changed then.
        """
        check_format(state, FORMAT, "states of rounds")
        found = [None if state[name] is None else Kept.from_state_dict(state[name]) for name in ("accepted", "best")]
        self.rows = tuple(Round(**row) for row in state["rows"])
        self.stopped, self.over = state["stopped"], state["over"]
        self._accepted, self._best = found
