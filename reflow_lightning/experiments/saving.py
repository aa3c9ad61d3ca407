"""Checkpoints from which a training goes on to the same bits."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from reflow_lightning.experiments.clock import Clock
from reflow_lightning.experiments.position import Position
from reflow_lightning.running.processes import warn

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_EVERY_STEPS = 10
"""Several processes agree so often on whether to save: they wait for each other then, and so do their devices."""
KEY = "reflow_lightning_run"
"""Under this name a checkpoint holds the settings and the phase of its run."""


class Checkpoints(Checkpoint):
    """Saves a training every so many minutes or epochs, at its end, and when it is asked to terminate (SIGTERM).

    The two newest checkpoints are kept, ``last.ckpt`` and ``previous.ckpt``: one is whole whenever the machine stops.
    A checkpoint is written after an optimizer step or at the end of an epoch, when all other callbacks are done.

    Args:
        folder: Where they are.
        run: Which run and phase it is, in plain types; a checkpoint says so under `KEY`.
        clock: Counts the seconds of the run.
        every_minutes: So often; ``None`` for never.
        every_n_epochs: At the end of every so many epochs; ``None`` for none but the last.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        clock: Clock,
        every_minutes: float | None = 5.0,
        every_n_epochs: int | None = None,
    ) -> None:
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f"checkpoint.every_minutes={every_minutes} must be positive, or null for never")
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"checkpoint.every_n_epochs={every_n_epochs} must be at least 1, or null for never")
        self.folder, self.run, self.clock = folder, dict(run), clock
        self.every_minutes, self.every_n_epochs = every_minutes, every_n_epochs
        self._position = Position()
        self._saved_at, self._step = time.monotonic(), 0
        self._told = False
        self._handler: Any = None  # of the signal, that was there before

    def state_dict(self) -> dict[str, Any]:
        """Where the training is in its data, and its seconds so far."""
        return {"position": self._position.state_dict(), "seconds": self.clock.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._position.load_state_dict(state_dict["position"])
        self.clock.go_on_from(float(state_dict["seconds"]))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the settings and the phase of the run to the checkpoint."""
        checkpoint[KEY] = self.run

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See `Position`."""
        self._position.fit_starts(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See `Position`; the minutes count from here."""
        self._position.training_starts(trainer)
        self._saved_at, self._step = time.monotonic(), trainer.global_step
        if threading.current_thread() is threading.main_thread() and not _requeues(trainer):
            self._handler = signal.signal(signal.SIGTERM, self._tell)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See `Position`."""
        self._position.epoch_starts()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See `Position`."""
        self._position.batch_starts()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, or if the process was told to terminate, unless gradients are still gathered."""
        self._position.batch_ends()
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if not stepped:
            return
        if trainer.world_size > 1 and trainer.global_step % _EVERY_STEPS:
            return
        if trainer.is_last_batch or _validates_now(trainer, batch_idx):
            return  # it is saved when that is over, or the resumed training would leave it out
        if self._on_any(trainer, self._is_late() or self._told):
            self._save_and_stop_if_told(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time."""
        self._position.epoch_ends()
        due = bool(self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0)
        if self._on_any(trainer, due or self._is_late() or self._told):
            self._save_and_stop_if_told(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what the training came to: tests and searches follow, which may be stopped as well."""
        self._let_go()
        self.save(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See `Position`."""
        self._position.fit_ends()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signal back."""
        self._let_go()

    def save(self, trainer: pl.Trainer) -> None:
        """Write ``last.ckpt``; if that fails in a training on one device, a warning says so, and it goes on."""
        new = self.folder / "new.ckpt"
        self._saved_at = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(new, weights_only=False)
            if trainer.is_global_zero:
                if (self.folder / LAST).exists():
                    _replace(self.folder / LAST, self.folder / PREVIOUS)
                _replace(new, self.folder / LAST)
        except (OSError, RuntimeError) as error:  # torch hides a full disk behind a RuntimeError
            if trainer.world_size > 1:
                raise
            warn(f"{self.folder / LAST} could not be written, and the training goes on without it: {error}")
        trainer.strategy.barrier("saved")

    def _save_and_stop_if_told(self, trainer: pl.Trainer) -> None:
        self.save(trainer)
        if self._on_any(trainer, self._told):
            raise SIGTERMException

    def _tell(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal. Lightning's own handler talks to other processes at once, in the midst of their talk."""
        self._told = True

    def _let_go(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
            self._handler = None

    def _is_late(self) -> bool:
        return self.every_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_minutes

    @staticmethod
    def _on_any(trainer: pl.Trainer, here: bool) -> bool:
        """Whether something is so on any process: all save, or none."""
        return here if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(here, all=False)


def _requeues(trainer: pl.Trainer) -> bool:
    """Whether Lightning answers SLURM's signals itself, with a job that is queued again."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return bool(getattr(environment, "auto_requeue", False))


def _validates_now(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a validation follows this batch."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or not isinstance(every, int):  # infinite, or by time
        return False
    by_epoch = trainer.check_val_every_n_epoch is not None
    return ((batch_idx if by_epoch else trainer.fit_loop.total_batch_idx) + 1) % every == 0


def _replace(source: Path, target: Path) -> None:
    """Move a checkpoint, which is a folder where parameters are spread over processes."""
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
