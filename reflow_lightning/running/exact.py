"""Float64, on a device that has it."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_device(tensor: Tensor) -> torch.device:
    """The device of a tensor, or the CPU if that has no float64.

    Example:
        >>> exact_device(torch.ones(1))
        device(type='cpu')
    """
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device


def exact(values: Tensor) -> Tensor:
    """A copy in float64, on the same device or, if that has no float64, on the CPU.

    Example:
        >>> exact(torch.ones(1))
        tensor([1.], dtype=torch.float64)
    """
    return values.detach().to(exact_device(values)).to(torch.float64, copy=True)


def as_exact(values: Tensor) -> Tensor:
    """The same as `exact`, but no copy of what is in float64 already."""
    return values.detach().to(exact_device(values)).double()  # in this order: a device may lack the type


def rounding(values: Tensor) -> Tensor:
    """The variance that values of a type may have by rounding alone: the square of four units in their last place.

    Example:
        >>> constant = torch.full((8,), 0.1) * torch.tensor([1, 1 + 1e-7]).repeat(4)
        >>> bool(0 < constant.var() < rounding(constant))
        True
    """
    return (4 * torch.finfo(values.dtype).eps) ** 2 * as_exact(values).square().mean()
