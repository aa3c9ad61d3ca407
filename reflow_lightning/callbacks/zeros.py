"""The part of a callback that has a Pruner and keeps its zeros; when it prunes is left to others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import nn
from torch.optim import Optimizer

from reflow_lightning.callbacks.averages import averages_in
from reflow_lightning.events.plan import Listener
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.pruning import Masks
from reflow_lightning.running.sharding import reshard


class KeepsZeros(pl.Callback):
    """Keeps the zeros of a pruner through a training: in the module, its gradients and its averages.

    Attributes:
        pruner: Prunes, and has the masks.
    """

    pruner: Pruner

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

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Before Lightning clips gradients: pruned weights have none."""
        self.pruner.bound.mask_gradients()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers and the module."""
        self.pruner.bound.release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the optimizers and the module."""
        self.pruner.bound.release()

    def _resume(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the zeros of an earlier training of this module, or of a checkpoint."""
        if not self.pruner.bound.adopt(pl_module):
            self._start_anew()
        reshard(pl_module)
        self.pruner.bound.apply([pl_module, *averages_in(trainer)])

    def _start_anew(self) -> None:
        """What was done before counts no more."""
        rank_zero_info("Reflow starts anew, since this is another module than the last")
