"""Reflow: decides when to prune, delegates what is done, logs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl

from reflow_lightning.calibration import AnyRepair
from reflow_lightning.callbacks.best import BestBefore
from reflow_lightning.callbacks.course import Course, Target
from reflow_lightning.callbacks.data import CalibrationData, check_calibration_data
from reflow_lightning.callbacks.logs import announce
from reflow_lightning.callbacks.monitor import SignalMonitor
from reflow_lightning.callbacks.monitors import monitor_for, monitors_of, show_end, show_event
from reflow_lightning.callbacks.once import OncePerFit
from reflow_lightning.callbacks.planning import plan_event
from reflow_lightning.callbacks.state import KeepsState
from reflow_lightning.callbacks.steps import Steps
from reflow_lightning.callbacks.strategies import enter_world
from reflow_lightning.callbacks.trainer import is_trial, length_of, progress_of
from reflow_lightning.callbacks.zeros import KeepsZeros
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.pruning import AnyAllocation, AnyCriterion
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.describing import as_call
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import reshard
from reflow_lightning.schedules import OneShot, Progress, Schedule, check_schedule


class Reflow(KeepsState, KeepsZeros):
    """Prune the network at chosen moments of a training, restore its signal, and keep the zeros from then on.

    At each moment it chooses weights (`reflow_lightning.prune`), sets them to zero, and repairs the network on fresh
    batches (`reflow_lightning.calibrate`; REFLOW, arXiv 2502.15790, and its kin). That happens before any
    validation and checkpoint of the moment, so that a metric and the weights saved with it agree. If anything fails,
    the network is as it was. Parameters are never renamed or wrapped; a checkpoint loads without this package.

    Logged are ``sparsity/global``, of the selected weights, and ``sparsity/all_matrices``; ``sparsity/<layer>`` and
    ``variance/<layer>`` of some layers; and at each pruning the signal of the network dense, pruned and repaired, by
    depth and over the training: as picture and table, where the logger has such, and as files, where it has a folder.

    Args:
        sparsity: Fraction of the selected weights that are zero in the end, in [0, 1).
        schedule: `OneShot`, `Gradual`, `Iterative`, or your own `reflow_lightning.schedules.Schedule`; ``None``
            stands for ``OneShot()``, which prunes at the start.
        criterion: Which weights go; see `reflow_lightning.prune`. It reads the calibration data if it needs any.
        allocation: How weights are shared out over layers.
        pattern: ``"N:M"`` or ``None``.
        min_kept: Least share of all weights that each layer keeps.
        include: Glob patterns on parameter names.
        exclude: Glob patterns on parameter names.
        tied: See `reflow_lightning.prune`. A network in the module that is seen to follow another is tied by itself.
        steps: So many prunings lead to the sparsity at one moment, each with the repair, as in `Pruner`.
        repair: A name such as ``"auto"`` or ``"reconstruct"``, a callable, or a list; see `reflow_lightning.calibrate`.
        budget: How long ``repair="best"`` may take, such as ``"5min"``; ``None`` for a minute.
        calibration_data: ``"train"``, ``"val"``, a DataLoader, a LightningDataModule (its
            ``calibration_dataloader`` if it has one, else its training loader) or a callable that returns batches.
            Always read through a fresh loader, all but a DataLoader in random order. ``"recent"``: copies of the last
            batches trained on, for reinforcement learning and streams; so is ``"train"`` that can't be read twice.
        calibration_batches: At most so many batches, of all ranks together; ``"auto"``: until they are enough.
        monitor: Log the signal; a `SignalMonitor` to say how often, where, and which metrics before the last pruning.
        forward: How the network is run on a batch: a function ``(module, batch) -> anything``; a step of the module,
            such as ``"training_step"``, in which nothing is logged and nothing may step; or what the module is called
            with, such as ``"batch[1]"``, ``"**batch"`` or ``"*batch[:2]"``. By default as `default_forward` does; where
            that fails, by a step of the module, and a warning says so.
        forget_best: `ModelCheckpoint` and `EarlyStopping` forget the dense best; ``False`` warns if that stays best.
        seed: Seed of the calibration batches' order and augmentation.

    Attributes:
        pruner: The `Pruner` that does the work; `masks`, `events`, `listeners` and `apply` are taken from it.

    Raises:
        ValueError: For arguments out of range here; for those that do not fit the training when ``fit`` starts.

    Example:
        >>> trainer = pl.Trainer(callbacks=[Reflow(sparsity=0.9, schedule=OneShot(epoch=10))], accelerator="cpu")
    """

    def __init__(
        self,
        sparsity: float,
        *,
        schedule: Schedule | None = None,
        criterion: AnyCriterion = "magnitude",
        allocation: AnyAllocation = "global",
        pattern: str | None = None,
        min_kept: float = 0.0,
        include: Patterns = ("*",),
        exclude: Patterns = (),
        tied: Mapping[str, str] | None = None,
        steps: int = 1,
        repair: AnyRepair = "auto",
        budget: float | str | None = None,
        calibration_data: CalibrationData = "train",
        calibration_batches: Limit = 50,
        monitor: bool | SignalMonitor = True,
        forward: AnyForward | None = None,
        forget_best: bool = False,
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
            tied=tied,
            steps=steps,
            repair=repair,
            budget=budget,
            calibration_batches=calibration_batches,
            monitor=monitor is not False,
            forward=forward,
            seed=seed,
        )
        if isinstance(monitor, SignalMonitor):
            self.pruner.between = monitor.metrics
        self.schedule = schedule = OneShot() if schedule is None else schedule
        check_schedule(schedule, pattern, steps)
        check_calibration_data(calibration_data)
        self.calibration_data = calibration_data
        self.monitor = monitor
        self.forget_best = forget_best
        self._course = Course(schedule, sparsity)
        self._steps = Steps()
        self._best = BestBefore(forget_best)
        self._once = OncePerFit(self.pruner, calibration_data)

    def __repr__(self) -> str:
        return as_call(type(self), vars(self.pruner.spec) | vars(self.pruner) | vars(self))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the arguments against the training and the model, before anything is changed."""
        enter_world(self, trainer, pl_module)
        self._once.begin(trainer, pl_module)
        self.bring_home(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the schedule against the training and watch the optimizers, which are restored by now."""
        goes_on = self.completed and self.pruner.bound.may_be_of(pl_module)  # under its masks
        if not (is_trial(trainer) or goes_on):
            self.schedule.check(length_of(trainer), self.sparsity)
        super().on_train_start(trainer, pl_module)
        self._course.warn_of_no_effect(self.masks)
        self._course.judge.begin(trainer, self.pruner.reached)
        self._course.judge_round(trainer, trainer.global_step, trainer.current_epoch)  # of a checkpoint
        self._curves = monitor_for(trainer, pl_module, self, self.pruner.forward)
        self._steps = Steps()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Prune, if it is time: for schedules that start with the training or an epoch."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        now = progress_of(trainer, self._steps.done(trainer), batch_idx)
        self._once.try_batch(trainer, pl_module, batch, is_over=self.completed, is_due=self._course.is_due(now))
        self._share(trainer)
        self._prune_if_due(trainer, pl_module, now)
        self._steps.batch_starts(trainer, pl_module)
        if self._curves is not None:
            self._curves.keep(trainer, batch)
        self._once.batch_starts(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune, if it is time: before the validation and the checkpoints that may follow this batch."""
        self._once.batch_ends(trainer, pl_module, self.completed)
        self._share(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._steps.batch_ends(trainer)
        now = progress_of(trainer, self._steps.done(trainer), batch_idx + 1, trainer.is_last_batch)
        self._prune_if_due(trainer, pl_module, now)
        if is_trial(trainer) and batch_idx == 0 and not self.completed:
            self._rehearse(trainer, pl_module, now.step)
        if self._curves is not None:
            self._curves.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the judge of the rounds."""
        self._course.judge.validated(trainer, pl_module, self.masks)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge a round that is over, after its last validation."""
        super().on_train_epoch_end(trainer, pl_module)
        if not is_trial(trainer):
            self._course.judge_round(trainer, self._steps.done(trainer), trainer.current_epoch + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to the last good round, leave exact zeros, and say if the schedule was not completed."""
        reshard(pl_module)
        completed = self.completed  # returning completes it in any case
        self._return(trainer, pl_module)
        self.pruner.bound.apply([pl_module])
        self.pruner.bound.release()
        if not (completed or is_trial(trainer) or self._course.judge.rounds.stopped):
            self._course.warn_of_the_end(self._steps.done(trainer), self.pruner.reached)
        self._best.training_ends(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to the last good round where nothing was left to train, after a checkpoint of the last epoch."""
        self._return(trainer, pl_module)
        show_end(trainer, self._curves)
        super().on_fit_end(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the module."""
        self._once.release()
        super().on_exception(trainer, pl_module, exception)

    def _start_anew(self) -> None:
        super()._start_anew()
        self._course = Course(self.schedule, self.sparsity)

    def _share(self, trainer: pl.Trainer) -> None:
        """Have monitors count steps as this does, and a default one run the model as the repair does."""
        for each in monitors_of(trainer):
            each.steps = self._steps  # to which a pruning is no step
        if self._curves is not None and self.monitor is True:
            self._curves.forward = self._once.forward

    def _prune_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule, now: Progress) -> None:
        if is_trial(trainer) or self._scope is None or not self._course.is_due(now):
            return
        target = self._course.target(now, self._scope.reached(trainer, pl_module, self.pruner.spec, self.masks))
        if target is not None:
            self._prune(trainer, pl_module, target, now.step)
        self._course.last = now  # ahead of the logs: if they fail, a checkpoint must know that this moment is over
        if target is not None:
            with together("logging the prune event"):
                show_event(trainer, self.events[-1], target.is_last)

    def _prune(self, trainer: pl.Trainer, pl_module: pl.LightningModule, target: Target, step: int) -> None:
        assert self._scope is not None  # since the training began
        finish = functools.partial(self.pruner.bound.prepare, pl_module, optimizers=trainer.optimizers)
        plan = plan_event(self.pruner, self._scope, self._once, trainer, pl_module, step)
        event = self.pruner.carry_out(pl_module, target.sparsity, replace(plan, is_last=target.is_last, finish=finish))
        self._scope.look()
        self._best.pruned(trainer)
        self._course.judge.pruned(event.sparsity)
        announce(event)

    def _rehearse(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int) -> None:
        """Do in a ``fast_dev_run`` all that the last event will do, and put everything back."""
        assert self._scope is not None
        plan = plan_event(self.pruner, self._scope, self._once, trainer, pl_module, step)
        event = self.pruner.rehearse(pl_module, self.sparsity, plan)
        show_event(trainer, event)
        announce(event, "Reflow tried a pruning, and took it back,")
