"""Parameters that are empty while nobody uses them; see `reflow_lightning.running.units`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

LENT: Any = WeakTensorKeyDictionary()
"""What lends each of them its values."""


def is_lent(parameter: Tensor) -> bool:
    """Whether a parameter is empty while nobody uses it.

    Example:
        >>> import torch
        >>> is_lent(torch.nn.Linear(2, 3).weight)
        False
    """
    return bool(LENT) and parameter in LENT


def kept(parameter: Tensor) -> Tensor:
    """Where the values of a parameter are while nobody uses it: the parameter itself, unless it is lent.

    Example:
        >>> import torch
        >>> kept(torch.nn.Linear(2, 3).weight).shape
        torch.Size([3, 2])
    """
    values: Tensor = LENT[parameter]().kept(parameter) if is_lent(parameter) else parameter.detach()
    return values
