"""Reflow: decides when to prune, delegates what is done, logs."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from reflow_lightning.calibration import AnyRepair
from reflow_lightning.callbacks.course import Course, Target
from reflow_lightning.callbacks.data import CalibrationData, check_calibration_data
from reflow_lightning.callbacks.logs import announce, log_event
from reflow_lightning.callbacks.monitor import SignalMonitor, monitor_for
from reflow_lightning.callbacks.once import OncePerFit
from reflow_lightning.callbacks.planning import in_training
from reflow_lightning.callbacks.trainer import is_trial, length_of, progress_of
from reflow_lightning.callbacks.zeros import KeepsZeros
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.pruning import Allocation, Criterion, DataAllocation, DataCriterion, Masks
from reflow_lightning.rounds import Round
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.compat.lightning import state_key
from reflow_lightning.running.describing import as_call
from reflow_lightning.running.formats import check_format
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import reshard
from reflow_lightning.schedules import OneShot, Progress, Schedule, check_schedule

FORMAT = 1
"""Number of the format of a callback's state in a checkpoint; version 0.1 wrote none."""


class Reflow(KeepsZeros):
    """Prune the network at chosen moments of a training, restore its signal, and keep the zeros from then on.

    At each moment: choose the weights (`reflow_lightning.prune`), set them to zero, re-estimate the BatchNorm
    statistics on fresh batches (`reflow_lightning.calibrate`; REFLOW, arXiv 2502.15790). That happens before any
    validation and checkpoint of the moment, so that a metric and the weights saved with it agree. If anything fails,
    the network is as it was. Parameters are never renamed or wrapped; a checkpoint loads without this package.

    Logged are ``sparsity/global`` and ``sparsity/<layer>``, ``variance/<layer>`` over the training, and with the
    layer's depth as x-axis ``variance_profile/dense``, ``/pruned`` and ``/repaired`` (the last pruning of a gradual
    schedule; earlier ones carry ``@step``).

    Args:
        sparsity: Fraction of the selected weights that are zero in the end, in [0, 1).
        schedule: `OneShot`, `Gradual`, `Iterative`, or your own `reflow_lightning.schedules.Schedule`.
        criterion: See `reflow_lightning.prune`, as for the next five. One that needs data reads the calibration data.
        allocation: How weights are shared out over layers.
        pattern: ``"N:M"`` or ``None``.
        min_kept: Least share of all weights that each layer keeps.
        include: Glob patterns on parameter names.
        exclude: Glob patterns on parameter names.
        repair: ``"auto"``, ``"batchnorm"``, ``"moments"``, ``"reconstruct"``, ``"none"``, a callable, or a list; see
            `reflow_lightning.calibrate`.
        calibration_data: ``"train"``, ``"val"``, a DataLoader, a LightningDataModule (its
            ``calibration_dataloader`` if it has one, else its training loader) or a callable that returns batches.
            Always read through a fresh loader, all but a DataLoader in random order.
        calibration_batches: At most so many batches, of all ranks together; ``"auto"``: until their statistics are
            precise enough.
        monitor: Log the signal; a `SignalMonitor` to say how often and where.
        forward: ``(module, batch) -> anything`` for batches that the default does not understand.
        seed: Seed of the calibration batches' order and augmentation.

    Attributes:
        pruner: The `Pruner` that does it; `masks`, `events`, `listeners` and `apply` are its own.
        schedule: Decides when.

    Raises:
        ValueError: Here for arguments out of range; when ``fit`` starts for those that do not fit the model or the
            training.

    Example:
        >>> trainer = pl.Trainer(callbacks=[Reflow(sparsity=0.9, schedule=OneShot(epoch=10))], accelerator="cpu")
    """

    def __init__(
        self,
        sparsity: float,
        *,
        schedule: Schedule = OneShot(),  # noqa: B008  (frozen)
        criterion: str | Criterion | DataCriterion = "magnitude",
        allocation: str | Allocation | DataAllocation = "global",
        pattern: str | None = None,
        min_kept: float = 0.0,
        include: Patterns = ("*",),
        exclude: Patterns = (),
        repair: AnyRepair = "auto",
        calibration_data: CalibrationData = "train",
        calibration_batches: Limit = 50,
        monitor: bool | SignalMonitor = True,
        forward: Forward | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(monitor, (bool, SignalMonitor)):
            raise ValueError(f"monitor={monitor!r} must be True, False or a SignalMonitor")
        self.pruner = Pruner(
            sparsity,
            criterion=criterion,
            allocation=allocation,
            pattern=pattern,
            min_kept=min_kept,
            include=include,
            exclude=exclude,
            repair=repair,
            calibration_batches=calibration_batches,
            monitor=monitor is not False,
            forward=forward,
            seed=seed,
        )
        check_schedule(schedule, pattern)
        check_calibration_data(calibration_data)
        self.schedule = schedule
        self.calibration_data = calibration_data
        self.monitor = monitor
        self._curves: SignalMonitor | None = None  # in this fit
        self._course = Course(schedule, sparsity)
        self._once = OncePerFit(self.pruner, calibration_data)

    # -- what it has reached

    @property
    def completed(self) -> bool:
        """Whether all pruning is done, by the schedule or since a round was not good enough."""
        return self._course.is_completed

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds of an `Iterative` schedule so far, the dense network first; of other schedules none."""
        return self._course.judge.rounds.rows

    @property
    def returned(self) -> Round | None:
        """The round whose network a training with ``stop_on_drop`` ended with."""
        return self._course.judge.rounds.returned

    def __repr__(self) -> str:
        return as_call(type(self), vars(self.pruner.spec) | vars(self.pruner) | vars(self))

    # -- the training's course

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the arguments against the training and the model, before anything is changed."""
        self._once.begin(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the schedule against the training and watch the optimizers, which are restored by now."""
        if not is_trial(trainer):
            self.schedule.check(length_of(trainer), self.sparsity)
        self._resume(trainer, pl_module)
        self._course.warn_of_no_effect(self.masks)
        self.pruner.bound.bind(pl_module)
        self.pruner.bound.watch(trainer.optimizers)
        self._course.judge.begin(trainer, self.pruner.reached)
        self._course.judge_round(trainer, trainer.current_epoch)  # a checkpoint's round may have ended just then
        self._curves = monitor_for(trainer, self.monitor, self.pruner.forward)
        if self._curves is not None:
            self._curves.on_train_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Prune, if it is time: for schedules that start with the training or an epoch."""
        self._once.try_batch(trainer, pl_module, batch)
        self.pruner.bound.follow(pl_module)
        self._prune_if_due(trainer, pl_module, progress_of(trainer, batch_idx))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune, if it is time: before the validation and the checkpoints that may follow this batch."""
        self._prune_if_due(trainer, pl_module, progress_of(trainer, batch_idx + 1, trainer.is_last_batch))
        if self._curves is not None:
            self._curves.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the judge of the rounds."""
        self._course.judge.validated(trainer, pl_module, self.masks)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge a round that is over, after its last validation."""
        self._course.judge_round(trainer, trainer.current_epoch + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to the last good round, leave exact zeros, and say if the schedule was not completed."""
        reshard(pl_module)
        completed = self.completed  # returning completes it in any case
        self._return(trainer, pl_module)
        self.pruner.bound.apply([pl_module])
        self.pruner.bound.release()
        if not (completed or self._course.judge.rounds.stopped):
            self._course.warn_of_the_end(trainer.global_step, self.pruner.reached)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to the last good round where nothing was left to train, after a checkpoint of the last epoch."""
        self._return(trainer, pl_module)

    # -- its steps

    def _start_anew(self) -> None:
        super()._start_anew()
        self._course = Course(self.schedule, self.sparsity)

    def _return(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        masks = self._course.judge.end(trainer, pl_module, self.masks)
        if masks is not self.masks:
            self.pruner.settle()  # what the last event did is gone
            self.pruner.masks = masks
            self.pruner.bound.bind(pl_module)
            trainer.callback_metrics["sparsity/global"] = torch.tensor(self.pruner.reached)

    def _prune_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule, now: Progress) -> None:
        if not self._course.is_due(now):
            return
        target = self._course.target(now, self.pruner.reached)
        if target is not None:
            self._prune(trainer, pl_module, target, now.step)
        self._course.last = now  # ahead of the logs: if they fail, a checkpoint must know that this moment is over
        if target is not None:
            with together("logging the prune event"):
                log_event(trainer, self.events[-1], target.is_last)

    def _prune(self, trainer: pl.Trainer, pl_module: pl.LightningModule, target: Target, step: int) -> None:
        self._once.set_up_data(trainer)
        finish = functools.partial(self.pruner.bound.prepare, pl_module, optimizers=trainer.optimizers)
        plan = replace(self.pruner.plan(), step=step, is_last=target.is_last, finish=finish)
        event = self.pruner.carry_out(pl_module, target.sparsity, in_training(plan, trainer, self.calibration_data))
        self._course.judge.pruned(event.sparsity)
        announce(event)

    # -- the checkpoint

    @property
    def state_key(self) -> str:
        """Tells two instances apart that prune different parameters."""
        return state_key(self, include=self.pruner.spec.include, exclude=self.pruner.spec.exclude)

    def state_dict(self) -> dict[str, Any]:
        """Plain types only, so that torch loads it with ``weights_only=True``."""
        masks = None if self.masks is None else self.masks.state_dict()
        return {"format": FORMAT, "masks": masks, **self._course.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was: what was pruned stays so, and no prune event happens twice.

        Raises:
            ValueError: If it was saved by a newer version, or its masks are damaged; nothing is changed then.
        """
        check_format(state_dict, FORMAT, "states of Reflow")
        course = self._course.resumed(state_dict)
        masks = None if state_dict["masks"] is None else Masks.from_state_dict(state_dict["masks"])
        self.pruner.bound.load(masks)
        self._course = course
