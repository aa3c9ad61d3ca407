"""Bits: masks packed eight weights a byte, and numbers set to zero by theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reflow_lightning.pruning.shards import part_of
from reflow_lightning.running.compat.torch import multiply_each
from reflow_lightning.running.processes import gather


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


def gathered(mask: Tensor) -> Tensor:
    """The whole of a mask that may be spread over processes, on the CPU; a bit a weight is sent, and no weight.

    All processes must call it for a mask that is spread.
    """
    part = part_of("mask", mask)
    if part.group is None:
        return part.values.cpu()
    pieces = {start: unpack(bits, n) for start, n, bits in gather((part.start, part.values.numel(), pack(part.values)))}
    return torch.cat([pieces[start] for start in sorted(pieces)]).view(part.shape)


@torch.no_grad()
def zero_where_pruned(values: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Set values to zero where their masks are False, in place, all tensors in one call.

    It multiplies the *bits* of the numbers, as integers: that gives 0.0 whatever the number was, where NaN * 0 is NaN
    and -1.0 * 0 is -0.0; and it is faster than multiplying floats with bool masks, which holds nothing of their size.

    Args:
        values: Floating-point tensors.
        masks: Bool tensors of the same shapes.

    Example:
        >>> values = torch.tensor([float("nan"), -1.0, 3.0])
        >>> zero_where_pruned([values], [torch.tensor([False, False, True])])
        >>> values
        tensor([0., 0., 3.])
    """
    if values:
        multiply_each([v.view(_INTEGERS[v.element_size()]) for v in values], masks)


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
