"""Where the threshold of a ranking lies, roughly, from a sample of the keys: only those near it need a closer look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from reflow_lightning.pruning.radix import Pool, chosen, everywhere, in_step, threshold

SAMPLE = 1 << 19
"""About so many keys of all tensors are looked at first."""

_DEVIATIONS = 5
"""So many standard deviations of a sample's count the threshold may be off; beyond, ranking takes longer."""

_MOST = 1 / 32
"""At most this share of all keys is held, since of equal ones any number may lie near the threshold."""


def narrowed(pools: Sequence[Pool], size: int, keep: int, floor: Tensor, dtype: torch.dtype) -> Sequence[Pool]:
    """The pools with those keys alone that may be the threshold, held in memory, and the number of those above.

    Two passes over the keys. If the sample misled, or too many keys are equal, or there are few anyway, the pools are
    what they were.

    Args:
        pools: One entry a tensor, of all its keys.
        size: Number of all keys, on all processes.
        keep: See `threshold`, as for the next two.
        floor: One number a tensor.
        dtype: Type of the scores.

    Example:
        >>> keys = torch.arange(1 << 22, dtype=torch.int32)
        >>> [pool] = narrowed([Pool(lambda: [keys])], len(keys), 1 << 20, torch.tensor([0]), torch.float32)
        >>> [near] = pool.pieces()
        >>> bool(near.min() < 3 << 20 <= near.max()), len(near) < len(keys) / 50
        (True, True)
    """
    step = next(step for step in count(size // SAMPLE) if math.gcd(step, 210) == 1)  # no row or kernel has that period
    if step <= 2:
        return pools
    sample = _sample(pools, step)
    target = keep // step
    margin = 8 + _DEVIATIONS * math.isqrt(max(0, min(target, size // step - target)))
    least = floor // step
    low, high = (threshold(sample, target + off, least, dtype).key for off in (margin, -margin))
    del sample
    near, above, inside = _between(pools, low, high, int(_MOST * size))
    groups = [pool.group for pool in pools]
    above, inside = everywhere(above, groups), everywhere(inside, groups)
    enough, few = (int(torch.maximum(counts, floor).sum()) for counts in (above + inside, above))
    if int(inside.sum()) > _MOST * size or not few < keep <= enough:
        return pools
    return [_held(pool, keys, int(n)) for pool, keys, n in zip(pools, near, above, strict=True)]


def _held(pool: Pool, keys: Sequence[Tensor], above: int = 0) -> Pool:
    return replace(pool, pieces=lambda: keys, above=above)


def _sample(pools: Sequence[Pool], step: int) -> list[Pool]:
    """Every so many-th key of all tensors, in a row."""
    sampled, seen = [], 0
    with in_step([pool.group for pool in pools]):
        for pool in pools:
            taken = []
            for keys in pool.pieces():
                taken.append(keys[-seen % step :: step].clone())
                seen += len(keys)
            sampled.append(_held(pool, [torch.cat(taken)] if taken else []))
    return sampled


def _between(pools: Sequence[Pool], low: int, high: int, most: int) -> tuple[list[list[Tensor]], Tensor, Tensor]:
    """Keys of each tensor from ``low`` to ``high``, ``most`` in all; how many are above; how many these are."""
    near: list[list[Tensor]] = []
    above, inside = torch.zeros(2, len(pools), dtype=torch.int64)
    held = 0
    with in_step([pool.group for pool in pools]):
        for index, pool in enumerate(pools):
            near.append([])
            for keys in pool.pieces():
                over = keys > high
                found = chosen(keys, over.ne(keys >= low))
                above[index] += over.count_nonzero().cpu()
                inside[index] += len(found)
                held += len(found)
                if held <= most:
                    near[-1].append(found)
            near[-1] = [torch.cat(near[-1])] if near[-1] else []  # so that only one tensor's are there twice
    return near, above, inside
