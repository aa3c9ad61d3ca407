"""Reflow: decides when to prune, delegates what is done, logs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import nn
from torch.optim import Optimizer

from reflow_lightning.calibration import AnyRepair, check_repair
from reflow_lightning.callbacks import logs
from reflow_lightning.callbacks import trainer as asking
from reflow_lightning.callbacks.judge import judge_of
from reflow_lightning.callbacks.monitor import SignalMonitor
from reflow_lightning.callbacks.planning import in_training
from reflow_lightning.callbacks.trainer import CalibrationData
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.pruning import Allocation, Criterion, DataAllocation, DataCriterion, Masks, check_model
from reflow_lightning.rounds import Round
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.compat.lightning import state_key
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import has_lazy_parameters, isolated_rng, only_training
from reflow_lightning.running.names import Patterns, as_patterns
from reflow_lightning.running.processes import together, warn
from reflow_lightning.running.sharding import reshard, whole
from reflow_lightning.schedules import OneShot, Progress, Schedule, resolve_schedule

_BELOW_ONE = math.nextafter(1.0, 0.0)  # of few weights all may be gone by rounding; 1.0 is no sparsity to ask for


class Reflow(Pruner, pl.Callback):
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
        schedule: `OneShot`, `Gradual` or `Iterative`.
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
        masks: The masks, once there are any.
        events: What each prune event of this process did.
        listeners: Functions ``(stage, module)``, called while the network is ``"dense"``, ``"pruned"`` and
            ``"repaired"``.

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
        self.include, self.exclude = as_patterns(include), as_patterns(exclude)
        how = {
            "criterion": criterion,
            "allocation": allocation,
            "pattern": pattern,
            "min_kept": min_kept,
            "include": self.include,
            "exclude": self.exclude,
        }
        if not isinstance(monitor, (bool, SignalMonitor)):
            raise ValueError(f"monitor={monitor!r} must be True, False or a SignalMonitor")
        super().__init__(sparsity, how, repair, calibration_batches, forward, seed, measures=monitor is not False)
        self.schedule = resolve_schedule(schedule, sparsity, pattern)
        asking.check_calibration_data(calibration_data)
        self.calibration_data = calibration_data
        self.monitor = SignalMonitor(forward=forward) if monitor is True else monitor or None
        self._default_monitor = monitor is True
        self._curves: SignalMonitor | None = None  # the monitor, unless the trainer has another that does its work
        self._last: Progress | None = None
        self._judge = judge_of(self.schedule)
        self._checked = self._tried = self._prepared = False

    @property
    def state_key(self) -> str:
        """Tells two instances apart that prune different parameters."""
        return state_key(self, include=self.include, exclude=self.exclude)

    @property
    def completed(self) -> bool:
        """Whether all pruning is done, by the schedule or since a round was not good enough."""
        return self.schedule.finished(self._last) or self._judge.rounds.is_done

    @property
    def _reached(self) -> float:
        return 0.0 if self.masks is None else self.masks.sparsity

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds of an `Iterative` schedule so far, the dense network first; of other schedules none."""
        return self._judge.rounds.rows

    @property
    def returned(self) -> Round | None:
        """The round whose network a training with ``stop_on_drop`` ended with."""
        return self._judge.rounds.returned

    # -- the training's course

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the arguments against the training and the model, before anything is changed."""
        asking.check_strategy(trainer)
        self._checked = self._tried = self._prepared = False
        if not has_lazy_parameters(pl_module):
            self._check(pl_module)

    def _check(self, module: nn.Module) -> None:
        reshard(module)
        with together("checking the model"):
            check_model(module, self.sparsity, self._spec)
            check_repair(module, self.repair)
        self._checked = True

    def _adopt(self, model: nn.Module) -> None:
        if not self._bound.adopt(model):
            rank_zero_info("Reflow starts anew, since this is another module than the last")
            self._last, self._judge = None, judge_of(self.schedule)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checkpoint is loaded by now: the sanity check shall see the zeros."""
        self._resume(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the schedule against the training and watch the optimizers, which are restored by now."""
        if not asking.is_trial(trainer):
            self.schedule.check(asking.length(trainer))
        self._resume(trainer, pl_module)
        ended = self.schedule.finished(self._last) or self._judge.rounds.over
        if self.masks is not None and ended and not self.masks.reaches(self.sparsity):
            warn(
                f"sparsity={self.sparsity} has no effect: {self.schedule} was completed before this fit, at sparsity "
                f"{self.masks.sparsity:.4f}; use a new Reflow, without its state in the checkpoint, to prune further"
            )
        self._bound.bind(pl_module)
        self._bound.keeper.watch(trainer.optimizers)
        self._judge.begin(trainer, self._reached)
        self._judge_round(trainer, trainer.current_epoch)  # that of a checkpoint may have ended just then
        others = any(isinstance(callback, SignalMonitor) for callback in asking.callbacks(trainer))
        self._curves = None if self._default_monitor and others else self.monitor
        if self._curves is not None:
            self._curves.on_train_start(trainer, pl_module)

    def _resume(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._adopt(pl_module)
        reshard(pl_module)
        self._bound.apply([pl_module, *asking.averages(trainer)])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Prune, if it is time: for schedules that start with the training or an epoch."""
        lazy = not self._checked and has_lazy_parameters(pl_module)
        if lazy or (not self._tried and self.calibration_data == "train" and self.repair != "none"):
            self._try_forward(trainer, pl_module, batch)
        if not self._checked:  # a forward pass, this one or a sanity check's, has given lazy layers their values
            self._check(pl_module)
        self._bound.follow(pl_module)
        self._prune_if_due(trainer, pl_module, asking.progress(trainer, batch_idx))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune, if it is time: before the validation and the checkpoints that may follow this batch."""
        self._prune_if_due(trainer, pl_module, asking.progress(trainer, batch_idx + 1, trainer.is_last_batch))
        if self._curves is not None:
            self._curves.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Before Lightning clips gradients: pruned weights have none."""
        self._bound.keeper.mask_gradients()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the judge of the rounds."""
        self._judge.validated(trainer, pl_module, self.masks)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge a round that is over, after its last validation."""
        self._judge_round(trainer, trainer.current_epoch + 1)

    def _judge_round(self, trainer: pl.Trainer, epochs: int) -> None:
        self._judge.judge(trainer, Progress(trainer.global_step, epochs, None), self._last)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to the last good round, leave exact zeros, and say if the schedule was not completed."""
        reshard(pl_module)
        completed = self.completed
        self._return(trainer, pl_module)
        self._bound.apply([pl_module])
        self._bound.keeper.release()
        if not (completed or self._judge.rounds.stopped):
            warn(
                f"training ended at step {trainer.global_step} before {self.schedule} was completed: sparsity is "
                f"{self._reached:.4f} instead of {self.sparsity}; train longer, or prune earlier"
            )

    def _return(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        masks = self._judge.end(trainer, pl_module, self.masks)
        if masks is not self.masks:
            self._settle()  # what the last event did is gone
            self.masks = masks
            self._bound.bind(pl_module)
            trainer.callback_metrics["sparsity/global"] = torch.tensor(self._reached)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to the last good round where nothing was left to train, after a checkpoint of the last epoch."""
        self._return(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers and the module."""
        self._bound.keeper.release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the optimizers and the module."""
        self._bound.keeper.release()

    @torch.no_grad()
    def _try_forward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        """Fail now, not after days of training, if the forward pass does not understand the batches."""
        self._tried = True
        with whole(pl_module), together("the first forward pass"), isolated_rng(), only_training(pl_module, ()):
            asking.forward_in_precision(trainer, self.forward)(pl_module, batch)

    # -- the prune event

    def _prune_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule, now: Progress) -> None:
        if self._judge.rounds.is_done or not self.schedule.due(now, self._last):
            return
        pruned = min(self._reached, _BELOW_ONE)
        target = max(self.schedule.share(now) * self.sparsity, pruned)  # a longer training may lower the share
        is_last = self.schedule.finished(now)
        prunes = target > pruned or is_last
        if prunes:
            self._prune(trainer, pl_module, target, now, is_last)
        self._last = now  # ahead of the logs: if they fail, a checkpoint must know that this moment is over
        if prunes:
            with together("logging the prune event"):
                logs.log_event(trainer, self.events[-1], is_last)

    def _prune(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, target: float, now: Progress, is_last: bool
    ) -> None:
        if isinstance(self.calibration_data, pl.LightningDataModule) and not self._prepared:
            asking.prepare(trainer, self.calibration_data)
            self._prepared = True

        def finish(masks: Masks) -> None:
            self._bound.keeper.bind(pl_module, masks)
            for optimizer in trainer.optimizers:
                self._bound.keeper.forget_moments(optimizer)

        plan = dataclasses.replace(self._plan(), step=now.step, is_last=is_last, finish=finish)
        plan = in_training(plan, trainer, self.calibration_data)
        event = self._do(pl_module, target, plan)
        self._judge.pruned(event.sparsity)
        rank_zero_info(
            f"Reflow at step {now.step}: sparsity {event.sparsity:.4f} over {len(event.sparsities)} tensors "
            f"({event.seconds['prune']:.2f} s), repaired {len(event.calibration.repaired)} layers with "
            f"{event.calibration.batches} batches ({event.seconds['repair']:.2f} s)"
        )

    # -- the checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Plain types only, so that torch loads it with ``weights_only=True``."""
        return {
            "masks": None if self.masks is None else self.masks.state_dict(),
            "last": None if self._last is None else dataclasses.asdict(self._last),
            "rounds": self._judge.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was: what was pruned stays so, and no prune event happens twice."""
        masks, last, rounds = state_dict["masks"], state_dict["last"], state_dict.get("rounds")
        self._bound.load(None if masks is None else Masks.from_state_dict(masks))
        self._last = None if last is None else Progress(**last)
        self._judge = judge_of(self.schedule)
        if rounds is not None:
            self._judge.load_state_dict(rounds)
