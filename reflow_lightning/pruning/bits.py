"""Masks as bits: gathered from all processes, and numbers set to zero by theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from reflow_lightning.running.bits import INTEGERS, pack, unpack
from reflow_lightning.running.compat.torch import multiply_each
from reflow_lightning.running.processes import gather
from reflow_lightning.running.shards import part_of


def gathered(mask: Tensor) -> Tensor:
    """The whole of a mask that may be spread over processes, on the CPU; a bit a weight is sent, and no weight.

    All processes must call it for a mask that is spread.
    """
    part = part_of("mask", mask)
    if part.group is None:
        return part.values.cpu()
    here = (part.start, part.values.numel(), pack(part.values.cpu()))
    pieces = {start: unpack(bits, n) for start, n, bits in gather(here)}
    return torch.cat([pieces[start] for start in sorted(pieces)]).view(part.shape)


_PIECE = 1 << 19
"""So many values are multiplied at once on the CPU, where torch first copies a mask of bools to the type of the values:
the copy stays in the processor's cache, and takes memory that is at hand instead of some from the system."""


_GROUP = 1 << 24
"""About so many values are handed to torch together. One call for each of many small tensors would take longer; masks
that are made one after the other take so many bytes."""


@torch.no_grad()
def zero_where_pruned(values: Sequence[Tensor], masks: Iterable[Tensor]) -> None:
    """Set values to zero where their masks are False, in place.

    It multiplies the *bits* of the numbers, as integers: that gives 0.0 for every number, where NaN * 0 is NaN
    and -1.0 * 0 is -0.0; and it is faster than multiplying floats with bool masks. Beside the tensors it takes the
    memory of half a million numbers on the CPU, and none elsewhere.

    Args:
        values: Floating-point tensors. If one can't be masked, that is raised before any is changed.
        masks: Bool tensors of the same shapes; they may be made one after the other.

    Example:
        >>> values = torch.tensor([float("nan"), -1.0, 3.0])
        >>> zero_where_pruned([values], [torch.tensor([False, False, True])])
        >>> values
        tensor([0., 0., 3.])
    """
    group: list[tuple[Tensor, Tensor]] = []
    held = 0
    for numbers, mask in zip([v.view(INTEGERS[v.element_size()]) for v in values], masks, strict=True):
        group.extend(zip(_pieces(numbers), _pieces(mask), strict=True))
        held += mask.numel()
        if held >= _GROUP:
            _multiply(group)
            group, held = [], 0
    _multiply(group)


def _multiply(group: Sequence[tuple[Tensor, Tensor]]) -> None:
    if group:
        multiply_each([numbers for numbers, _ in group], [mask for _, mask in group])


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """A tensor in pieces of some of its rows, on the CPU; views of the same memory, also if it is not contiguous."""
    if tensor.device.type != "cpu" or tensor.numel() <= _PIECE:
        return (tensor,)
    return torch.split(tensor, max(1, _PIECE // tensor[0].numel()))
