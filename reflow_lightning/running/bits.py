"""Bools as bits, eight a byte."""

from __future__ import annotations

import torch
from torch import Tensor


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
    flat = mask.flatten().cpu()
    packed = torch.zeros(-(-flat.numel() // 8), dtype=torch.uint8)
    for bit in range(8):
        part = flat[bit::8]
        packed[: part.numel()] |= part.to(torch.uint8) << (7 - bit)
    return packed


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
    flat = torch.empty(size, dtype=torch.bool)
    for bit in range(8):
        part = flat[bit::8]
        part.copy_((packed[: part.numel()] >> (7 - bit)) & 1)
    return flat
