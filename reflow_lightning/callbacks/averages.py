"""Averages of the weights that other callbacks of a training keep."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import nn
from torch.optim.swa_utils import AveragedModel

from reflow_lightning.callbacks.trainer import callbacks_of


def averaging_callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    """The callbacks that keep averages of the weights, `WeightAveraging` and its like."""
    kinds = {"WeightAveraging", "StochasticWeightAveraging"}
    return [found for found in callbacks_of(trainer) if {kind.__name__ for kind in type(found).__mro__} & kinds]


def averages_in(trainer: pl.Trainer) -> list[nn.Module]:
    """The modules in which other callbacks keep averages of the weights."""
    found = []
    for callback in averaging_callbacks(trainer):
        average = getattr(callback, "_average_model", None)
        has_begun = getattr(callback, "_initialized", True)  # before, SWA has a copy of the first weights
        if has_begun and isinstance(average, nn.Module):
            found.append(average.module if isinstance(average, AveragedModel) else average)
    return found
