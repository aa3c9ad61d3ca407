"""The dense network that repairs compare with."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from reflow_lightning.calibration.repair import Repair, unit_by_unit
from reflow_lightning.running.plain import plain_copy
from reflow_lightning.running.sharding import runs_by_unit
from reflow_lightning.running.units import copied_by_unit


def dense_to_compare(model: nn.Module, repairs: Iterable[Repair]) -> nn.Module:
    """A copy of a dense model to compare with, whole one unit at a time where that is enough for all repairs.

    Where the model is spread over processes, all must call this.

    Example:
        >>> from reflow_lightning.calibration import Moments
        >>> model = nn.Linear(2, 2)
        >>> dense_to_compare(model, [Moments()]) is model
        False
    """
    if runs_by_unit(model) and all(map(unit_by_unit, repairs)):
        return copied_by_unit(model)
    return plain_copy(model)
