"""Exact ranking over many tensors in bounded memory.

The bits of an IEEE float, read as an integer, order like the float itself. So the k-th largest of all scores is found
among integers: a sample says roughly where it lies (`narrowing`), and of the few keys near that it is found digit by
digit (`radix`). Scores are made twice for that and once for the masks, one piece at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from reflow_lightning.pruning.narrowing import narrowed
from reflow_lightning.pruning.radix import Pool, members, threshold
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.processes import summed


@dataclass(frozen=True)
class Cut:
    """Where one tensor is cut: scores above ``key`` stay, and so do those equal to it but the first ``pruned_ties``.

    Of a tensor that is spread over processes, ``kept`` counts all of it, ``pruned_ties`` what is held here.
    """

    dtype: torch.dtype
    key: int
    kept: int
    pruned_ties: int


def rank(scores: Sequence[Scores], keep: int, floors: Sequence[int] | None = None) -> list[Cut]:
    """Cut all tensors so that the ``keep`` largest scores stay, of equal ones the last by position.

    With floors it finds the one threshold t for which ``sum_l max(floor_l, #{scores of l >= t}) = keep``: the most
    score that can stay when tensor l keeps at least ``floor_l`` (Minimum Threshold, arXiv 2209.14624).

    Args:
        scores: One entry a tensor.
        keep: Number of weights that stay, between ``sum(floors)`` and the number of all weights.
        floors: Least number for each tensor, at most its size. Default: 0.

    Returns:
        One cut a tensor; ``sum(cut.kept) == keep`` exactly.

    Example:
        >>> from reflow_lightning.pruning import Magnitude, Scores
        >>> weights = {"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([3.0, 1.0])}
        >>> [cut.kept for cut in rank([Scores(name, w, Magnitude()) for name, w in weights.items()], keep=3)]
        [1, 2]
    """
    dtype = torch.float64 if any(s.dtype == torch.float64 for s in scores) else torch.float32
    floor = torch.tensor([0] * len(scores) if floors is None else list(floors), dtype=torch.int64)
    pools = [Pool(partial(s.keys, dtype), s.whole.group) for s in scores]
    near = narrowed(pools, sum(s.size for s in scores), keep, floor, dtype)
    key, above, equal, here = threshold(near, keep, floor, dtype)
    kept_ties = _share_ties(above, equal, floor, keep)
    pruned_ties = _share_here(equal - kept_ties, here, scores)
    return [
        _cut(dtype, key, int(a + t), int(p), int(h)) if a + t >= f else rank([s], int(f))[0]
        for s, a, t, p, h, f in zip(scores, above, kept_ties, pruned_ties, here, floor, strict=True)
    ]


def _cut(dtype: torch.dtype, key: int, kept: int, pruned_ties: int, ties: int) -> Cut:
    """A cut; where all ties are pruned it lies above them, so that nobody need look for them."""
    above = 0 < pruned_ties == ties and key < torch.iinfo(torch.int32 if dtype == torch.float32 else torch.int64).max
    return Cut(dtype, key + 1, kept, 0) if above else Cut(dtype, key, kept, pruned_ties)


def _share_here(pruned_ties: Tensor, here: Tensor, scores: Sequence[Scores]) -> Tensor:
    """How many ties are pruned here: earlier processes come first."""
    earlier = torch.zeros_like(here)
    for group, indices in members([s.whole.group for s in scores]).items():
        table = torch.zeros(dist.get_world_size(group), len(indices), dtype=torch.int64)
        table[dist.get_rank(group)] = here[indices]
        earlier[indices] = summed(table, group)[: dist.get_rank(group)].sum(0)
    return torch.minimum((pruned_ties - earlier).clamp(min=0), here)


def _share_ties(above: Tensor, equal: Tensor, floor: Tensor, keep: int) -> Tensor:
    """How many of its scores that equal the threshold each tensor keeps: the last tensors first."""
    least, most = torch.maximum(above, floor), torch.maximum(above + equal, floor)
    left = keep - int(least.sum())
    kept = least.clone()
    for i in reversed(range(len(kept))):
        extra = min(left, int(most[i] - least[i]))
        kept[i] += extra
        left -= extra
    return torch.minimum(kept - above, equal)


def cut_mask(scores: Scores, cut: Cut) -> Tensor:
    """The mask of a cut: bool, of the weight's shape, True where the weight stays.

    Example:
        >>> from reflow_lightning.pruning import Magnitude, Scores
        >>> s = Scores("w", torch.tensor([1.0, 1.0, 1.0, 2.0]), Magnitude())
        >>> cut_mask(s, rank([s], keep=2)[0])
        tensor([False, False,  True,  True])
    """
    mask = torch.empty(scores.weight.shape, dtype=torch.bool, device=scores.weight.device)
    flat, start, to_prune = mask.view(-1), 0, cut.pruned_ties
    for keys in scores.keys(cut.dtype):
        kept = torch.ge(keys, cut.key, out=flat[start : start + keys.numel()])
        if to_prune:
            ties = (keys == cut.key).nonzero().flatten()[:to_prune]
            kept[ties] = False
            to_prune -= ties.numel()
        start += keys.numel()
    return mask
