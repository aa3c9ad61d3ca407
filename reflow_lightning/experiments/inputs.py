"""What pruning, repair and measurements read of a data module."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from reflow_lightning.callbacks.data import loader_of
from reflow_lightning.running.batches import move
from reflow_lightning.running.forward import batch_input


def calibration_loader(data: pl.LightningDataModule) -> Any:
    """What pruning and repair read, of data that the evaluation before may have torn down."""
    data.setup("fit")
    return loader_of(data)


def first_test_input(data: pl.LightningDataModule, device: torch.device) -> Any:
    """The input of the first test batch, on a device; of several test loaders the first counts."""
    data.setup("test")
    loader = data.test_dataloader()
    return move(batch_input(next(iter(loader[0] if isinstance(loader, (list, tuple)) else loader))), device)
