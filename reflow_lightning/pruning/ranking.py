"""Exact ranking over many tensors in bounded memory, by a radix histogram over float bits.

The bits of an IEEE float, read as an integer, order like the float itself. So the k-th largest of all scores is found
digit by digit: count how often each value of the leading digit occurs, choose the value in which the k-th lies, and
look only at scores with that digit in the next pass. Nothing is sorted or concatenated: what is kept is one small
histogram a tensor and one piece of scores at a time.

Where tensors are spread over processes, all that these exchange is counts, a few for each tensor and bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.processes import summed, together

_DIGITS = {  # (shift, width in bits) from the leading digit on
    torch.float32: ((21, 11), (10, 11), (0, 10)),
    torch.float64: ((53, 11), (42, 11), (31, 11), (20, 11), (10, 10), (0, 10)),
}


@dataclass(frozen=True)
class Cut:
    """Where one tensor is cut: scores above ``key`` stay, and so do those equal to it but the first ``pruned_ties``.

    Of a tensor that is spread over processes, ``kept`` counts all of it, ``pruned_ties`` what is held here.
    """

    dtype: torch.dtype
    key: int
    kept: int
    pruned_ties: int


def _histogram(scores: Scores, dtype: torch.dtype, prefix: int | None, shift: int, bits: int) -> Tensor:
    """How often each value of a digit occurs among the scores whose leading digits are ``prefix``."""
    counts = torch.zeros(1 << bits, dtype=torch.int64, device=scores.weight.device)
    for keys in scores.keys(dtype):
        if prefix is None:  # the leading digit holds the sign
            digits = (keys >> shift).add_(1 << (bits - 1))
        else:
            digits = (keys[(keys >> (shift + bits)) == prefix] >> shift) & ((1 << bits) - 1)
        counts += torch.bincount(digits, minlength=1 << bits)
    return counts


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
    above = torch.zeros(len(scores), dtype=torch.int64)
    here = equal = above
    prefix = None
    for shift, bits in _DIGITS[dtype]:
        counts = torch.zeros(len(scores), 1 << bits, dtype=torch.int64)
        with _in_step(scores):
            for row, s in zip(counts, scores, strict=True):
                row.copy_(_histogram(s, dtype, prefix, shift, bits))
        digit = _digit(counts, above, floor, keep, scores)
        here = counts[:, digit]
        equal = _everywhere(here, scores)
        above = above + _everywhere(counts[:, digit + 1 :].sum(1), scores)
        prefix = digit - (1 << (bits - 1)) if prefix is None else (prefix << bits) | digit
    assert prefix is not None
    kept_ties = _share_ties(above, equal, floor, keep)
    pruned_ties = _share_here(equal - kept_ties, here, scores)
    return [
        Cut(dtype, prefix, int(a + t), int(p)) if a + t >= f else rank([s], int(f))[0]
        for s, a, t, p, f in zip(scores, above, kept_ties, pruned_ties, floor, strict=True)
    ]


def _digit(counts: Tensor, above: Tensor, floor: Tensor, keep: int, scores: Sequence[Scores]) -> int:
    """The largest digit for which enough scores have at least that digit, each tensor counting its floor or more.

    By bisection, so that processes need not exchange whole histograms.
    """
    from_digit = counts.flip(1).cumsum(1).flip(1)
    low, high = 0, counts.shape[1]
    while high - low > 1:
        middle = (low + high) // 2
        at_least = above + _everywhere(from_digit[:, middle], scores)
        low, high = (middle, high) if int(torch.maximum(at_least, floor).sum()) >= keep else (low, middle)
    return low


def _groups(scores: Sequence[Scores]) -> dict[dist.ProcessGroup, list[int]]:
    """The process groups that hold tensors together, and which."""
    groups: dict[dist.ProcessGroup, list[int]] = {}
    for index, s in enumerate(scores):
        if s.whole.group is not None:
            groups.setdefault(s.whole.group, []).append(index)
    return groups


def _in_step(scores: Sequence[Scores]) -> AbstractContextManager[None]:
    return together("ranking") if _groups(scores) else nullcontext()


def _everywhere(counts: Tensor, scores: Sequence[Scores]) -> Tensor:
    """One count a tensor, summed over the processes that hold it together."""
    total = counts.clone()
    for group, indices in _groups(scores).items():
        total[indices] = summed(counts[indices], group)
    return total


def _share_here(pruned_ties: Tensor, here: Tensor, scores: Sequence[Scores]) -> Tensor:
    """How many ties are pruned here: earlier processes come first."""
    earlier = torch.zeros_like(here)
    for group, indices in _groups(scores).items():
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
