"""Reflow: decides when to prune, delegates what is done, logs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from itertools import islice
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn  # type: ignore[attr-defined]
from torch.utils.hooks import RemovableHandle

from reflow_lightning import bridge
from reflow_lightning.bridge import CalibrationData
from reflow_lightning.calibration import Calibration, Repair, calibrate, resolve_repair
from reflow_lightning.event import PruneEvent, prune_and_repair, zero_optimizer_state
from reflow_lightning.names import Patterns, as_patterns
from reflow_lightning.pruning import Allocation, Criterion, Masks, check_arguments, check_model, make_masks
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.schedules import Gradual, OneShot, Progress, Schedule
from reflow_lightning.signal.measure import Profile
from reflow_lightning.signal.monitor import SignalMonitor

_PROFILE_BATCHES = 4


class Reflow(pl.Callback):
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
        schedule: `OneShot` or `Gradual`.
        criterion: See `reflow_lightning.prune`, as for the next five.
        allocation: How weights are shared out over layers.
        pattern: ``"N:M"`` or ``None``.
        min_kept: Least share of all weights that each layer keeps.
        include: Glob patterns on parameter names.
        exclude: Glob patterns on parameter names.
        repair: ``"auto"``, ``"batchnorm"``, ``"none"`` or a callable; see `reflow_lightning.calibrate`.
        calibration_data: ``"train"``, ``"val"``, a DataLoader, a LightningDataModule (its training loader) or a
            callable that returns batches. Always read through a fresh loader, all but a DataLoader in random order.
        calibration_batches: At most so many batches.
        monitor: Log the signal; a `SignalMonitor` to say how often and where.
        forward: ``(module, batch) -> anything`` for batches that the default does not understand.

    Attributes:
        masks: The masks, once there are any.
        events: What each prune event of this process did.
        listeners: Functions ``(stage, trainer, module)``, called while the network is ``"dense"``, ``"pruned"`` and
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
        criterion: str | Criterion = "magnitude",
        allocation: str | Allocation = "global",
        pattern: str | None = None,
        min_kept: float = 0.0,
        include: Patterns = ("*",),
        exclude: Patterns = (),
        repair: str | Repair = "auto",
        calibration_data: CalibrationData = "train",
        calibration_batches: int = 50,
        monitor: bool | SignalMonitor = True,
        forward: Forward | None = None,
    ) -> None:
        check_arguments(sparsity, criterion, allocation, pattern, min_kept)
        resolve_repair(repair)
        bridge.check_calibration_data(calibration_data)
        if isinstance(calibration_batches, bool) or not isinstance(calibration_batches, int) or calibration_batches < 1:
            raise ValueError(f"calibration_batches={calibration_batches!r} must be a whole number of at least 1")
        if pattern is not None and isinstance(schedule, Gradual):
            raise ValueError(f"pattern={pattern!r} can't be reached gradually: use schedule=OneShot(...)")
        self.sparsity = sparsity
        self.schedule = schedule
        self.include, self.exclude = as_patterns(include), as_patterns(exclude)
        self._how: dict[str, Any] = {
            "criterion": criterion,
            "allocation": allocation,
            "pattern": pattern,
            "min_kept": min_kept,
            "include": self.include,
            "exclude": self.exclude,
        }
        self.repair = repair
        self.calibration_data = calibration_data
        self.calibration_batches = calibration_batches
        self.monitor = SignalMonitor(forward=forward) if monitor is True else monitor or None
        self.forward = forward
        self.masks: Masks | None = None
        self.events: list[PruneEvent] = []
        self.listeners: list[Callable[[str, pl.Trainer, pl.LightningModule], None]] = []
        self._last: Progress | None = None
        self._keep_zeros: Callable[[], None] | None = None
        self._handles: list[RemovableHandle] = []

    @property
    def state_key(self) -> str:
        """Tells two instances apart that prune different parameters."""
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    # -- the training's course

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the arguments against the model, before anything is changed."""
        check_model(pl_module, self.sparsity, **self._how)
        if self.masks is not None:
            self.masks.apply(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the schedule against the training and watch the optimizers, which are restored by now."""
        if not bridge.is_trial(trainer):
            self.schedule.check(bridge.length(trainer))
        self._bind(pl_module)
        self._remove_handles()
        for optimizer in trainer.optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Prune, if it is time: for schedules that start with the training or an epoch."""
        self._prune_if_due(trainer, pl_module, bridge.progress(trainer, batch_idx))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune, if it is time: before the validation and the checkpoints that may follow this batch."""
        self._prune_if_due(trainer, pl_module, bridge.progress(trainer, batch_idx + 1, trainer.is_last_batch))
        if self.monitor is not None and not any(isinstance(c, SignalMonitor) for c in _callbacks(trainer)):
            self.monitor.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave exact zeros, and say if the schedule was not completed."""
        if self.masks is not None:
            self.masks.apply(pl_module)
        self._remove_handles()
        if not self.schedule.finished(self._last):
            reached = 0.0 if self.masks is None else self.masks.sparsity
            rank_zero_warn(
                f"training ended at step {trainer.global_step} before {self.schedule} was completed: sparsity is "
                f"{reached:.4f} instead of {self.sparsity}; train longer, or prune earlier"
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop watching the optimizers."""
        self._remove_handles()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop watching the optimizers."""
        self._remove_handles()

    # -- the prune event

    def _prune_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule, now: Progress) -> None:
        if not self.schedule.due(now, self._last):
            return
        if share := self.schedule.share(now):
            self._prune(trainer, pl_module, share * self.sparsity, now)
        self._last = now
        if share and trainer.loggers:
            self._log_event(trainer, self.events[-1])

    def _prune(self, trainer: pl.Trainer, pl_module: pl.LightningModule, target: float, now: Progress) -> None:
        forward = bridge.forward_in_precision(trainer, self.forward)
        batches = functools.partial(bridge.calibration_batches, trainer, self.calibration_data, seed=now.step)
        # Seeded, so that neither a resumed run nor one with other logging draws or augments the batches otherwise.
        isolated = functools.partial(isolated_rng, seed=now.step + trainer.global_rank)
        limit = bridge.batch_limit(trainer, self.calibration_data, self.calibration_batches)
        profile = None
        if self.monitor is not None and not bridge.is_barebones(trainer):
            with isolated():
                profile = Profile(pl_module, islice(batches(), min(limit, _PROFILE_BATCHES)), forward)

        def reached(stage: str) -> None:
            if profile is not None:
                profile.measure(stage)
            for listener in self.listeners:
                listener(stage, trainer, pl_module)

        def repair() -> Calibration:
            shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
            with isolated():
                return calibrate(
                    pl_module, batches(), repair=self.repair, max_batches=limit, forward=forward, progress=shown
                )

        def choose() -> Masks:
            with isolated():
                return make_masks(pl_module, target, previous=self.masks, **self._how)

        event = prune_and_repair(pl_module, choose, repair, reached, now.step)
        self.events.append(dataclasses.replace(event, signal=profile.reports if profile else {}))
        self.masks = event.masks
        self._bind(pl_module)
        for optimizer in trainer.optimizers:
            zero_optimizer_state(optimizer, pl_module, event.masks)
        rank_zero_info(
            f"Reflow at step {now.step}: sparsity {event.masks.sparsity:.4f} over {len(event.masks)} tensors "
            f"({event.seconds['prune']:.2f} s), repaired {len(event.calibration.repaired)} layers with "
            f"{event.calibration.batches} batches ({event.seconds['repair']:.2f} s)"
        )

    def _log_event(self, trainer: pl.Trainer, event: PruneEvent) -> None:
        metrics = {"sparsity/global": event.masks.sparsity}
        metrics |= {f"sparsity/{name.removesuffix('.weight')}": s for name, s in event.masks.sparsities.items()}
        bridge.log_metrics(trainer, metrics, bridge.logger_step(trainer))
        suffix = "" if self.schedule.finished(self._last) else f"@{event.step}"
        for stage, report in event.signal.items():
            for depth, row in enumerate(report.rows, start=1):
                bridge.log_metrics(trainer, {f"variance_profile/{stage}{suffix}": row.variance}, depth)
        bridge.overlay(trainer, "variance against depth", [f"variance_profile/{stage}" for stage in event.signal])

    # -- the zeros

    def _bind(self, pl_module: pl.LightningModule) -> None:
        if self.masks is not None:
            self.masks = self.masks.to(pl_module.device)
            self._keep_zeros = self.masks.bind(pl_module)

    def _after_step(self, *_: Any) -> None:
        if self._keep_zeros is not None:
            self._keep_zeros()

    def _remove_handles(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    # -- the checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Plain types only, so that torch loads it with ``weights_only=True``."""
        return {
            "masks": None if self.masks is None else self.masks.to("cpu").state_dict(),
            "last": None if self._last is None else dataclasses.asdict(self._last),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was: what was pruned stays so, and no prune event happens twice."""
        masks, last = state_dict["masks"], state_dict["last"]
        self.masks = None if masks is None else Masks.from_state_dict(masks)
        self._last = None if last is None else Progress(**last)


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return cast("list[pl.Callback]", trainer.callbacks)  # type: ignore[attr-defined]
