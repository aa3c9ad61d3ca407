"""Averages of the weights that other callbacks of a training keep."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import nn

from reflow_lightning.callbacks.trainer import callbacks_of
from reflow_lightning.running.compat.lightning import averaged_by


def averaging_callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    """The callbacks that keep averages of the weights, `WeightAveraging` and its like."""
    kinds = {"WeightAveraging", "StochasticWeightAveraging"}
    return [found for found in callbacks_of(trainer) if {kind.__name__ for kind in type(found).__mro__} & kinds]


def averages_in(trainer: pl.Trainer) -> list[nn.Module]:
    """The modules in which other callbacks keep averages of the weights."""
    averages = map(averaged_by, averaging_callbacks(trainer))
    return [average for average in averages if average is not None]
