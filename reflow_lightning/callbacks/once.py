"""What is done once in a fit: a trial of what is to come, so that it fails at the start, and its data set up."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from reflow_lightning.callbacks.data import CalibrationData, prepare_data
from reflow_lightning.callbacks.strategies import check_strategy
from reflow_lightning.callbacks.trainer import forward_in_precision
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.running.isolation import has_lazy_parameters, isolated_rng, only_training
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import reshard, whole


class OncePerFit:
    """Checks a pruner's arguments against the model and its forward pass on the first batch; sets up its data.

    Args:
        pruner: The pruner.
        data: What it calibrates on; see `Reflow`.
    """

    def __init__(self, pruner: Pruner, data: CalibrationData) -> None:
        self.pruner = pruner
        self.data = data
        self._checked = self._tried = self._is_set_up = False

    def begin(self, trainer: pl.Trainer, module: nn.Module) -> None:
        """A fit begins: check the strategy, and the model, unless its layers are waiting for a batch."""
        check_strategy(trainer)
        self._checked = self._tried = self._is_set_up = False
        if not has_lazy_parameters(module):
            self._check(module)

    def try_batch(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        """A batch is about to be trained on: try the forward pass, if batches like it will be calibrated on."""
        lazy = not self._checked and has_lazy_parameters(module)
        if lazy or (not self._tried and self.data == "train" and self.pruner.repair != "none"):
            self._try_forward(trainer, module, batch)
        if not self._checked:  # a forward pass, this one or a sanity check's, has given lazy layers their values
            self._check(module)

    def set_up_data(self, trainer: pl.Trainer) -> None:
        """The batches are about to be read: set up a data module that the trainer does not know."""
        if isinstance(self.data, pl.LightningDataModule) and not self._is_set_up:
            prepare_data(trainer, self.data)
            self._is_set_up = True

    def _check(self, module: nn.Module) -> None:
        reshard(module)
        with together("checking the model"):
            self.pruner.check(module)
        self._checked = True

    @torch.no_grad()
    def _try_forward(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        self._tried = True
        with whole(module), together("the first forward pass"), isolated_rng(), only_training(module, ()):
            forward_in_precision(trainer, self.pruner.forward)(module, batch)
