"""What is done once in a fit: a trial of what is to come, so that it fails at the start, and its data set up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import nn

from reflow_lightning.callbacks.data import CalibrationData, Source, calibration_batches, prepare_data
from reflow_lightning.callbacks.recent import Recent, recent_for
from reflow_lightning.callbacks.strategies import check_same_parameters, check_strategy
from reflow_lightning.callbacks.trainer import is_barebones
from reflow_lightning.callbacks.trying import Comparison, forward_that_works, try_loss
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.pruning.criteria.needing_loss import loss_needed
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.generators import generators_in
from reflow_lightning.running.isolation import has_lazy_parameters, isolated_rng, only_training
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import is_spread, reshard
from reflow_lightning.running.units import runnable


class OncePerFit:
    """Checks a pruner's arguments against the model and its forward pass on the first batch; sets up its data.

    Where the last batches trained on are wanted, or have to do, it keeps them until the last pruning.

    Args:
        pruner: The pruner.
        data: What it calibrates on; see `Reflow`.

    Attributes:
        forward: How the model is run on a batch in this fit.
    """

    def __init__(self, pruner: Pruner, data: CalibrationData) -> None:
        self.pruner = pruner
        self.data = data
        self.forward: AnyForward | None = pruner.forward
        self._recent: Recent | None = None
        self._checked = self._tried = self._is_set_up = self._looked = False
        self._comparison: Comparison | None = None  # until the first step is over

    @property
    def source(self) -> Source:
        """What is calibrated on in this fit."""
        return self._recent or self.data

    def begin(self, trainer: pl.Trainer, module: nn.Module) -> None:
        """A fit begins: check the strategy, and the model, unless its layers are waiting for a batch."""
        check_strategy(trainer)
        self.pruner.said.clear()
        self._recent = None
        self._checked = self._tried = self._is_set_up = self._looked = False
        self.forward = self.pruner.forward
        if not has_lazy_parameters(module):
            self._check(trainer, module)

    def try_batch(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        batch: Any,
        *,
        is_over: bool = False,
        is_due: bool = False,
    ) -> None:
        """A batch is about to be trained on: try the forward pass, if batches like it will be calibrated on.

        Args:
            trainer: The running trainer.
            module: The module.
            batch: As it will be trained on; it is copied.
            is_over: No pruning is to come.
            is_due: The network is pruned before the batch is trained on. Otherwise lazy layers go on waiting for the
                training itself, which draws their values; a copy is tried.
        """
        if not (self._looked or is_over):
            self._recent = recent_for(trainer, self.data, self.pruner.calibration_batches)
        self._looked = True
        if is_over:
            self._recent = None
        elif self._recent is not None:
            self._recent.take_in(batch)
        lazy = not self._checked and has_lazy_parameters(module)
        if lazy or (not self._tried and self.data in ("train", "recent") and self._runs(trainer)):
            if lazy and not is_due:
                module = cast("pl.LightningModule", dense_copy(module))
            self._try_forward(trainer, module, batch)
            if self.forward is None and not is_spread(module):
                self._comparison = Comparison.of_default(trainer, module, batch)
        if not self._checked:  # a forward pass, this one or a sanity check's, has given lazy layers their values
            self._check(trainer, module)

    def batch_starts(self, module: nn.Module) -> None:
        """Nothing else is done before the batch is trained on."""
        if self._comparison is not None:
            self._comparison.begin(module)

    def batch_ends(self, trainer: pl.Trainer, module: pl.LightningModule, is_over: bool) -> None:
        """The batch has been trained on: tell if the network got something else than in the trial."""
        if self._comparison is not None:
            self.forward = self._comparison.end(trainer, module, self.forward, is_over)
            self._comparison = None

    def release(self) -> None:
        """Listen to nothing any more."""
        if self._comparison is not None:
            self._comparison.stop()

    def __getstate__(self) -> dict[str, Any]:
        """What may be copied or sent to another process: not what listens to a module."""
        return self.__dict__ | {"_comparison": None}

    def set_up_data(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The batches are about to be read: set up a data module that the trainer does not know.

        Batches that are not the training's are tried now, as those were in its first step.
        """
        if is_one(self.data, "LightningDataModule") and not self._is_set_up:
            prepare_data(trainer, self.data)
            self._is_set_up = True
        if not self._tried and self.pruner.forward is None and self._runs(trainer) and self._can_be_tried(trainer):
            with isolated_rng(), closing(calibration_batches(trainer, self.source, self.pruner.seed)) as batches:
                for batch in islice(batches, 1):
                    self._try_forward(trainer, module, batch)

    def _can_be_tried(self, trainer: pl.Trainer) -> bool:
        """Whether a batch may be read for a trial: a stream would lose it, and another process may have none."""
        is_function = callable(self.data) and not is_one(self.data, "LightningDataModule")
        return trainer.world_size == 1 and not (is_function and isinstance(cast("Any", self.data)(), Iterator))

    def _runs(self, trainer: pl.Trainer) -> bool:
        """Whether an event runs the model."""
        measures = self.pruner.monitor and not is_barebones(trainer)
        return measures or self.pruner.repair != "none" or loss_needed(self.pruner.spec.criterion) is not None

    def _check(self, trainer: pl.Trainer, module: nn.Module) -> None:
        reshard(module)
        check_same_parameters(module)
        with together("checking the model"):
            self.pruner.check(module)
        self._checked = True

    @torch.no_grad()
    def _try_forward(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        self._tried = True
        with runnable(module) as network, together("the first forward pass"), ExitStack() as stack:
            stack.enter_context(isolated_rng(generators=generators_in(network)))
            stack.enter_context(only_training(network, ()))
            tried = cast("pl.LightningModule", network)
            self.forward = forward_that_works(trainer, tried, batch, self.pruner.forward)
            if (loss := loss_needed(self.pruner.spec.criterion)) is not None:
                try_loss(trainer, tried, batch, self.forward, loss)
