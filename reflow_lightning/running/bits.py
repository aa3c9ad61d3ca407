"""Bools as bits, eight a byte, and the bits of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
        uint8 tensor of ceil(n / 8) elements, on the same device.

    Example:
        >>> pack(torch.tensor([True, False, False, False, False, False, False, True, True])).tolist()
        [129, 128]
    """
    flat = mask.flatten()
    return torch.from_numpy(np.packbits(flat.numpy())) if flat.device.type == "cpu" else pack_elsewhere(flat)


def pack_elsewhere(flat: Tensor) -> Tensor:
    """The same as `pack`, by operations that every device has; NumPy is faster on the CPU."""
    ones = (flat.view(torch.uint8) != 0).to(torch.uint8)  # a bool that was viewed as one may be any byte
    filled = torch.nn.functional.pad(ones, (0, -flat.numel() % 8)).view(-1, 8)
    return (filled << _shifts(flat.device)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, size: int) -> Tensor:
    """The bool tensor, flat, from what `pack` gave.

    Args:
        packed: uint8 tensor.
        size: Number of elements.

    Returns:
        Bool tensor on the same device.

    Raises:
        ValueError: If it is of another type, or its length does not fit.

    Example:
        >>> unpack(torch.tensor([128], dtype=torch.uint8), 2).tolist()
        [True, False]
    """
    _check(packed, size)
    if packed.device.type != "cpu":
        return unpack_elsewhere(packed, size)
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=size)).view(torch.bool)


def unpack_elsewhere(packed: Tensor, size: int) -> Tensor:
    """The same as `unpack`, by operations that every device has."""
    return ((packed.unsqueeze(1) >> _shifts(packed.device)) & 1).view(torch.bool).flatten()[:size]


def pack_all(masks: Iterable[Tensor], size: int) -> Tensor:
    """Pack bool tensors one after the other, without a gap between them; one of them at a time is looked at.

    Args:
        masks: Bool tensors.
        size: Number of their elements.

    Returns:
        uint8 tensor of ceil(size / 8) elements, on the CPU.

    Example:
        >>> pack_all([torch.tensor([True] * 3), torch.tensor([False] * 4 + [True] * 2)], 9).tolist()
        [225, 128]
    """
    packed = torch.zeros(-(-size // 8), dtype=torch.uint8, device="cpu")
    start = 0
    for mask in masks:
        flat = mask.flatten().cpu()
        filled, first = -start % 8, -(-start // 8)  # bits that are free in the last byte, and the first free byte
        if filled and flat.numel():
            packed[first - 1] |= pack(flat[:filled])[0] >> (8 - filled)
        rest = pack(flat[filled:])
        packed[first : first + len(rest)] = rest
        start += flat.numel()
        del mask, flat  # before the next one is made
    return packed


def unpack_each(packed: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """The bool tensors, flat, from what `pack_all` gave, one at a time.

    Raises:
        ValueError: At once, if it is of another type, or its length does not fit.

    Example:
        >>> [mask.tolist() for mask in unpack_each(torch.tensor([225, 128], dtype=torch.uint8), [3, 6])]
        [[True, True, True], [False, False, False, False, True, True]]
    """
    _check(packed, sum(sizes))
    return _each(packed, sizes)


def _each(packed: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    start = 0
    for size in sizes:
        skipped, end = start % 8, start + size
        yield unpack(packed[start // 8 : -(-end // 8)], skipped + size)[skipped:]
        start = end


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)


def _check(packed: Tensor, size: int) -> None:
    if packed.dtype != torch.uint8 or packed.shape != (-(-size // 8),):
        raise ValueError(f"{size} bits need {-(-size // 8)} bytes, not {packed.dtype} {tuple(packed.shape)}")
