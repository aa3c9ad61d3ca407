"""The k-th largest key of many tensors, digit by digit, in bounded memory.

Count how often each value of the leading digit occurs, choose the value in which the k-th key lies, and look only at
keys with that digit in the next pass. Nothing is sorted or concatenated: what is kept is one small histogram a tensor
and one piece of keys at a time.

Where tensors are spread over processes, all that these exchange is counts, some twenty for each tensor and digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from reflow_lightning.running.processes import summed, together

_DIGITS = {  # (shift, width in bits) from the leading digit on
    torch.float32: ((21, 11), (10, 11), (0, 10)),
    torch.float64: ((53, 11), (42, 11), (31, 11), (20, 11), (10, 10), (0, 10)),
}

_PARTS = 6


@dataclass(frozen=True)
class Pool:
    """Keys of one tensor, as far as they are held here.

    Attributes:
        pieces: Gives them flat, in position order; the same ones every time.
        group: The processes that hold the tensor together; ``None`` where it is whole here.
        above: Number of keys of the tensor, on all processes, that are known to be above all of these.
    """

    pieces: Callable[[], Iterable[Tensor]]
    group: dist.ProcessGroup | None = None
    above: int = 0


class Threshold(NamedTuple):
    """A key, and how many keys of each tensor are above it and equal to it, and how many held here are equal to it."""

    key: int
    above: Tensor
    equal: Tensor
    here: Tensor


def threshold(pools: Sequence[Pool], keep: int, floor: Tensor, dtype: torch.dtype) -> Threshold:
    """The largest t for which ``sum_l max(floor_l, #{keys of l >= t}) >= keep``; the lowest key there is if none is.

    Args:
        pools: One entry a tensor.
        keep: See above.
        floor: One number a tensor, on the CPU.
        dtype: The type of the scores whose bits the keys are: ``torch.float32`` or ``torch.float64``.

    Example:
        >>> pools = [Pool(lambda: [torch.tensor([3, 7], dtype=torch.int32)]), Pool(lambda: [], above=1)]
        >>> threshold(pools, 2, torch.tensor([0, 0]), torch.float32).key
        7
    """
    groups = [pool.group for pool in pools]
    above = torch.tensor([pool.above for pool in pools], dtype=torch.int64)
    here = equal = above
    prefix = None
    for shift, bits in _DIGITS[dtype]:
        counts = torch.zeros(len(pools), 1 << bits, dtype=torch.int64)
        with in_step(groups):
            for row, pool in zip(counts, pools, strict=True):
                for keys in pool.pieces():
                    row += _histogram(keys, prefix, shift, bits).cpu()
        digit, above, equal = _digit(counts, above, floor, keep, groups)
        here = counts[:, digit]
        prefix = digit - (1 << (bits - 1)) if prefix is None else (prefix << bits) | digit
    assert prefix is not None
    return Threshold(prefix, above, equal, here)


def _histogram(keys: Tensor, prefix: int | None, shift: int, bits: int) -> Tensor:
    """How often each value of a digit occurs among the keys whose leading digits are ``prefix``."""
    if prefix is None:  # the leading digit holds the sign
        digits = (keys >> shift).add_(1 << (bits - 1))
    else:
        digits = (chosen(keys, (keys >> (shift + bits)) == prefix) >> shift) & ((1 << bits) - 1)
    return torch.bincount(digits, minlength=1 << bits)


def chosen(keys: Tensor, marks: Tensor) -> Tensor:
    """``keys[marks]`` of flat tensors, and faster where few are marked: marks are looked at eight at a time.

    Example:
        >>> chosen(torch.arange(9), torch.arange(9) > 6).tolist()
        [7, 8]
    """
    whole = len(keys) // 8 * 8
    rows = marks[:whole].view(torch.int64).nonzero().flatten()
    found = keys[:whole].view(-1, 8)[rows][marks[:whole].view(-1, 8)[rows]]
    return found if whole == len(keys) else torch.cat([found, keys[whole:][marks[whole:]]])


def _digit(
    counts: Tensor, above: Tensor, floor: Tensor, keep: int, groups: Sequence[dist.ProcessGroup | None]
) -> tuple[int, Tensor, Tensor]:
    """The largest digit for which enough keys have at least that digit, each tensor counting its floor or more.

    It is sought between two of six digits, and so on: processes exchange a few counts five times, where a bisection
    would take eleven exchanges, and whole histograms would be a hundred times as large. How many are exchanged does
    not depend on the counts, so that processes stay in step with any weights.

    Returns:
        The digit; how many keys of each tensor are above it, with those that were known to be; and how many have it.
    """
    at_least = torch.cat([counts.flip(1).cumsum_(1).flip(1), counts.new_zeros(len(counts), 1)], dim=1)
    size = counts.shape[1]
    low, width = 0, size  # the digit is one of so many from `low` on
    at_low: Tensor | None = None
    at_high = torch.zeros_like(above)
    while width > 1:
        step = -(-width // _PARTS)
        places = torch.arange(low, low + _PARTS * step, step)[at_low is not None :].clamp(max=size)
        found = everywhere(at_least[:, places], groups)
        if at_low is None:
            at_low, found, places = found[:, 0], found[:, 1:], places[1:]
        enough = torch.maximum(above[:, None] + found, floor[:, None]).sum(0) >= keep
        taken = int((enough & (places < size)).sum())
        if taken:  # else it is digit 0, also if not even that has enough
            low, at_low = low + step * taken, found[:, taken - 1]
        if taken < _PARTS - 1:
            at_high = found[:, taken]
        width = step
    assert at_low is not None
    return low, above + at_high, at_low - at_high


def members(groups: Sequence[dist.ProcessGroup | None]) -> dict[dist.ProcessGroup, list[int]]:
    """The process groups that hold tensors together, and which."""
    found: dict[dist.ProcessGroup, list[int]] = {}
    for index, group in enumerate(groups):
        if group is not None:
            found.setdefault(group, []).append(index)
    return found


def in_step(groups: Sequence[dist.ProcessGroup | None]) -> AbstractContextManager[None]:
    """`together`, if processes hold tensors together."""
    return together("ranking") if members(groups) else nullcontext()


def everywhere(counts: Tensor, groups: Sequence[dist.ProcessGroup | None]) -> Tensor:
    """Counts of tensors, a row each, summed over the processes that hold the tensor together."""
    total = counts.clone()
    for group, indices in members(groups).items():
        total[indices] = summed(counts[indices], group)
    return total
