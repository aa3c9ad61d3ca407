"""The part of a callback that has a Pruner and keeps its zeros; when it prunes is left to others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import nn
from torch.optim import Optimizer

from reflow_lightning.callbacks.averages import averages_in
from reflow_lightning.callbacks.looking import are_looked_at
from reflow_lightning.callbacks.movers import AFTER_BATCH, IN_BATCH, moved_message
from reflow_lightning.callbacks.scope import Scope
from reflow_lightning.events.plan import Listener
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.pruning import Masks
from reflow_lightning.running.processes import warn
from reflow_lightning.running.sharding import reshard
from reflow_lightning.running.world import rejoin, world_size


class KeepsZeros(pl.Callback):
    """Keeps the zeros of a pruner through a training: in the module, its gradients and its averages.

    Attributes:
        pruner: Prunes, and has the masks.
    """

    pruner: Pruner
    _scope: Scope | None = None  # of the module that is fitted
    _has_warned = False  # in this fit

    @property
    def sparsity(self) -> float:
        """The sparsity in the end."""
        return self.pruner.sparsity

    @property
    def masks(self) -> Masks | None:
        """The masks, once there are any."""
        return self.pruner.masks

    @masks.setter
    def masks(self, masks: Masks | None) -> None:
        self.pruner.masks = masks

    @property
    def events(self) -> list[PruneEvent]:
        """What each prune event of this process did."""
        return self.pruner.events

    @property
    def listeners(self) -> list[Listener]:
        """Functions ``(stage, module)``, called while the network is ``"dense"``, ``"pruned"`` and ``"repaired"``."""
        return self.pruner.listeners

    @listeners.setter
    def listeners(self, listeners: list[Listener]) -> None:
        self.pruner.listeners = listeners

    def apply(self, model: nn.Module, batches: Iterable[Any]) -> PruneEvent:
        """Prune and repair a model here and now, without a training; see `Pruner.apply`. The schedule is not asked."""
        same = self.pruner.bound.may_be_of(model)
        event = self.pruner.apply(model, batches)
        if not same:
            self._start_anew()
        return event

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checkpoint is loaded by now: the sanity check shall see the zeros."""
        self._resume(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the zeros of before, and keep them from now on."""
        self._resume(trainer, pl_module)
        self._scope = Scope(trainer, pl_module)
        self._has_warned = False
        self.pruner.bound.bind(pl_module)
        self.pruner.bound.watch(pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put zeros back before a batch: weights may have been written since the last one."""
        self._put_back(trainer, pl_module, AFTER_BATCH)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In manual optimization gradients may be used without a step that Lightning knows of."""
        if not pl_module.automatic_optimization:
            self.pruner.bound.keeper.mask_gradients()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Before Lightning clips gradients, or somebody else looks at them: pruned weights have none."""
        if are_looked_at(trainer, pl_module, optimizer):
            self.pruner.bound.keeper.mask_gradients()
        else:
            self.pruner.bound.keeper.let_moments(optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """What follows a batch sees zeros."""
        self._put_back(trainer, pl_module, IN_BATCH)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows an epoch sees zeros."""
        self._put_back(trainer, pl_module, AFTER_BATCH)
        self._extend(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation of the training sees zeros."""
        self._put_all_back(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation sees zeros, though the module or a callback put other weights in place for it."""
        self._put_all_back(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The same for each of its batches."""
        if trainer.state.fn == "fit":
            self._put_back(trainer, pl_module, AFTER_BATCH)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint holds no moments of pruned weights; the optimizers' state is taken after this."""
        self.pruner.bound.keeper.forget_let_moments()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave exact zeros: the module may have written weights when the training ended."""
        reshard(pl_module)
        self.pruner.bound.apply([pl_module])

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers and the module."""
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the optimizers and the module."""
        self._release()

    def _release(self) -> None:
        self.pruner.bound.release()
        self._scope = None
        rejoin(self)

    def _resume(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the zeros of an earlier training of this module, or of a checkpoint."""
        if not self.pruner.bound.adopt(pl_module):
            self._start_anew()
        reshard(pl_module)
        self.pruner.bound.apply([pl_module, *averages_in(trainer)])

    def _put_back(self, trainer: pl.Trainer, module: pl.LightningModule, hooks: Sequence[str]) -> None:
        """Set the zeros again that something may have moved, in one of these hooks."""
        self.pruner.bound.follow(module)
        self._tell(trainer, self.pruner.bound.keeper.put_back(), hooks)
        if world_size() == 1:  # of several, all must ask together, which would take time at each batch
            self._extend(trainer, module)

    def _extend(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep the zeros of networks too that were seen to follow others since."""
        if self.masks is None or self._scope is None:
            return
        masks = self._scope.extended(trainer, module, self.pruner.spec, self.masks)
        if masks is not self.masks:
            self.masks = masks
            self.pruner.bound.apply([module])
            self.pruner.bound.bind(module)

    def _put_all_back(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":  # what is only validated stays as it is
            self.pruner.bound.follow(module)
            self._tell(trainer, self.pruner.bound.keeper.put_all_back(), AFTER_BATCH)
            self._extend(trainer, module)

    def _tell(self, trainer: pl.Trainer, moved: Sequence[str], hooks: Sequence[str]) -> None:
        if moved and not self._has_warned:
            self._has_warned = True
            warn(moved_message(trainer, moved, hooks))

    def _start_anew(self) -> None:
        """What was done before counts no more."""
        rank_zero_info("Reflow starts anew, since this is another module than the last")
