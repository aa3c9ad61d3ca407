"""Bools as bits, eight a byte, and the bits of numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers that hold the bits of a number, by the number of bytes."""


def pack(mask: Tensor) -> Tensor:
    """Pack a bool tensor, the first element into the highest bit; the last byte is filled with zeros.

    Args:
        mask: Bool tensor of n elements.

    Returns:
        uint8 tensor of ceil(n / 8) elements, on the CPU.

    Example:
        >>> pack(torch.tensor([True, False, False, False, False, False, False, True, True])).tolist()
        [129, 128]
    """
    return torch.from_numpy(np.packbits(mask.flatten().cpu().numpy()))


def unpack(packed: Tensor, size: int) -> Tensor:
    """The bool tensor, flat, from what `pack` gave.

    Args:
        packed: uint8 tensor.
        size: Number of elements.

    Raises:
        ValueError: If it is of another type, or its length does not fit.

    Example:
        >>> unpack(torch.tensor([128], dtype=torch.uint8), 2).tolist()
        [True, False]
    """
    if packed.dtype != torch.uint8 or packed.shape != (-(-size // 8),):
        raise ValueError(f"{size} bits need {-(-size // 8)} bytes, not {packed.dtype} {tuple(packed.shape)}")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=size)).view(torch.bool)
