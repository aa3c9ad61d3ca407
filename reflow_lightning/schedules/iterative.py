"""Rounds of pruning and training; each takes a share of the weights that are left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reflow_lightning.running.processes import warn
from reflow_lightning.schedules.progress import Length, Progress
from reflow_lightning.schedules.schedule import RoundRule


@dataclass(frozen=True, kw_only=True)
class Iterative:
    """Train, prune, train, prune, ...: each pruning takes the same share of the weights that are left.

    Round r = 1, 2, ... begins at epoch ``r * every_n_epochs`` with the sparsity ``1 - (1 - amount)^r``, or `Reflow`'s
    ``sparsity`` if that is lower, which then is trained with until the end. The epochs before round 1 train the dense
    network. This is the loop of iterative magnitude pruning without rewinding, and of *Layer Collapse Can be Induced
    by Unstructured Pruning* (arXiv 2404.16890).

    With ``stop_on_drop`` every round is judged when its last epoch is over, or when the training ends, by the best of
    its validations. If that is worse than the best one of the dense network by more than the drop, the training ends.
    In any case it ends with the network of the best validation of the last round that was good enough, be it the dense
    one: its weights, its buffers, its masks. That happens after the last validation and checkpoint of an epoch, which
    still belong to the network that was trained last. Without ``stop_on_drop`` nothing is judged, and the network
    stays as it was trained.

    A learning rate that decays over the whole training leaves the last rounds little to recover with: let it start
    anew every ``every_n_epochs`` epochs, as `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts` does.

    Args:
        amount: Share of the weights that are left which each round prunes, in (0, 1).
        every_n_epochs: Epochs of a round, and of the dense training before the first.
        stop_on_drop: Largest drop of the metric that is good enough, in its unit: 0.01 of an accuracy is one point.
            ``None``: never stop.
        monitor: The metric, as it is logged in the validation.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> schedule = Iterative(amount=0.5, every_n_epochs=10)
        >>> [schedule.sparsity(Progress(step=0, epoch=e, fraction=None), final=0.8) for e in (9, 10, 20, 30)]
        [0.0, 0.5, 0.75, 0.8]
    """

    amount: float = 0.5
    every_n_epochs: int = 1
    stop_on_drop: float | None = None
    monitor: str = "val/accuracy"
    mode: str = "max"

    allows_pattern: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not _is_number(self.amount) or not 0 < self.amount < 1:
            raise ValueError(f"Iterative(amount={self.amount!r}) must be a share of the weights in (0, 1)")
        every = self.every_n_epochs
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"Iterative(every_n_epochs={every!r}) must be a whole number of at least 1")
        if self.stop_on_drop is not None and not (_is_number(self.stop_on_drop) and self.stop_on_drop >= 0):
            raise ValueError(
                f"Iterative(stop_on_drop={self.stop_on_drop!r}) must be a number of at least 0, or None to never stop"
            )
        if self.mode not in ("max", "min"):
            raise ValueError(f"Iterative(mode={self.mode!r}) must be 'max' or 'min'")

    @property
    def rounds(self) -> RoundRule:
        """How the rounds are judged."""
        return RoundRule(self.every_n_epochs, self.stop_on_drop, self.monitor, self.mode)

    def check(self, length: Length, sparsity: float) -> None:
        """Raise a ValueError if the first round never comes, without ``stop_on_drop`` the last, or there is no end."""
        if self.stop_on_drop is not None and self.mode == "max" and "loss" in self.monitor:
            warn(f"Iterative(monitor={self.monitor!r}, mode='max') keeps the highest loss: mode='min' keeps the lowest")
        if self.stop_on_drop is not None and not length.known:
            raise ValueError(
                f"{self} would never end if every round is good enough, since the last lasts as long as the training: "
                "set Trainer(max_epochs=...) or max_steps"
            )
        if length.epochs is None:
            return
        if self.every_n_epochs >= length.epochs:
            raise ValueError(
                f"{self}: the first round begins at epoch {self.every_n_epochs}, beyond the last one, "
                f"{length.epochs - 1}: lower every_n_epochs, or train longer (finetune_epochs in the application)"
            )
        reached = self._reached(length.epochs - 1)
        if self.stop_on_drop is None and not _is_at(reached, sparsity):
            raise ValueError(
                f"{self} gets to sparsity {reached:.4g} in {length.epochs} epochs, and not to {sparsity:.4g}: raise "
                "amount, lower every_n_epochs, or train longer (finetune_epochs in the application)"
            )

    def due(self, now: Progress, last: Progress | None) -> bool:
        """Whether a new round begins."""
        return self._round(now.epoch) > (0 if last is None else self._round(last.epoch))

    def sparsity(self, now: Progress, final: float) -> float:
        """``1 - (1 - amount)^r``, at most ``final``."""
        reached = self._reached(now.epoch)
        return final if _is_at(reached, final) else reached

    def finished(self, last: Progress | None, final: float) -> bool:
        """Whether the last pruning reached the final sparsity."""
        return last is not None and _is_at(self._reached(last.epoch), final)

    def _round(self, epoch: int) -> int:
        return epoch // self.every_n_epochs

    def _reached(self, epoch: int) -> float:
        return 1 - (1 - self.amount) ** self._round(epoch)


def _is_at(sparsity: float, final: float) -> bool:
    return sparsity >= final - 1e-9  # two prunings of 0.2 are 0.36 apart from rounding


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
