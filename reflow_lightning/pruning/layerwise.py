"""Rules that say how many weights each tensor keeps: uniform, Erdős-Rényi-Kernel, layer-adaptive magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reflow_lightning.pruning.criteria.protocols import Criterion, StreamedCriterion
from reflow_lightning.pruning.ranking import rank
from reflow_lightning.pruning.scores import Scores


def apportion(
    total: int, sizes: Mapping[str, float], least: Mapping[str, int], most: Mapping[str, int]
) -> dict[str, int]:
    """Share out a total in proportion to sizes, within bounds, by largest remainders: the sum is exact.

    Args:
        total: What is shared out, between ``sum(least)`` and ``sum(most)``.
        sizes: Proportions, positive where ``most`` is.
        least: Lower bounds.
        most: Upper bounds.

    Example:
        >>> apportion(10, {"a": 90, "b": 10}, least={"a": 0, "b": 4}, most={"a": 90, "b": 10})
        {'a': 6, 'b': 4}
    """
    assert sum(least.values()) <= total <= sum(most.values())
    low, high = 0.0, 1.0  # each gets clamp(factor * size): find the factor whose sum is the total

    def filled(factor: float) -> dict[str, float]:
        return {name: min(max(factor * size, least[name]), most[name]) for name, size in sizes.items()}

    while sum(filled(high).values()) < total and high < 1e300:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(filled(middle).values()) < total else (low, middle)
    shares = filled(high)
    counts = {name: max(least[name], min(most[name], int(share))) for name, share in shares.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - shares[name])  # stable: ties go to the first
    while (left := total - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        bound = most if left > 0 else least
        for name in [name for name in by_remainder[::step] if counts[name] != bound[name]][: abs(left)]:
            counts[name] += step
    return counts


def uniform(scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
    """Every tensor keeps the same share of its weights, as nearly as whole numbers and floors allow."""
    sizes = {name: s.size for name, s in scores.items()}
    return apportion(keep, sizes, floors, _most(scores, keep, floors))


def erk(scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
    """Erdős-Rényi-Kernel (*Rigging the Lottery*, arXiv 1911.11134): small layers keep a larger share.

    The share that a tensor of shape (n_1, ..., n_d) keeps is proportional to ``(n_1 + ... + n_d) / (n_1 * ... * n_d)``,
    so the number of its weights that stay is proportional to the sum of its dimensions; a tensor that would keep more
    than it has stays dense.
    """
    sizes = {name: float(sum(s.shape)) if s.size else 0.0 for name, s in scores.items()}
    return apportion(keep, sizes, floors, _most(scores, keep, floors))


def _most(scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
    """The most that each tensor may keep: what earlier masks left, if that suffices, so that nothing grows back.

    Rounding alone may let a tensor keep one weight more although fewer stay in all.
    """
    left = {name: max(floors[name], s.left) for name, s in scores.items()}
    return left if sum(left.values()) >= keep else {name: s.most for name, s in scores.items()}


@dataclass(frozen=True)
class Lamp:
    """The score of *Layer-Adaptive Sparsity for the Magnitude-based Pruning* (arXiv 2010.07611).

    Each squared score is divided by the sum of its own and all larger ones of the tensor; of equal scores the later by
    position counts as the larger. The largest weight of each tensor has score 1, so that no tensor is emptied first.

    Attributes:
        criterion: Gives the scores; the paper's are magnitudes.

    Example:
        >>> from reflow_lightning.pruning import Magnitude
        >>> Lamp(Magnitude())("fc.weight", torch.tensor([1.0, 2.0]))
        tensor([0.2000, 1.0000], dtype=torch.float64)
    """

    criterion: Criterion

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""
        scores = self.criterion(name, weight).double().flatten()
        if scores.numel():  # by a power of two, which is exact: squares of the largest float64 are infinite
            scores = scores * math.ldexp(1.0, min(1023, -math.frexp(float(scores.abs().max()))[1]))
        order = _descending(scores)
        squared = scores[order].square()
        ratio = squared / squared.cumsum(0).clamp(min=torch.finfo(squared.dtype).tiny)
        return torch.empty_like(scores).index_put_((order,), ratio).view(weight.shape)


def _descending(scores: Tensor) -> Tensor:
    """Positions from the largest score to the smallest; of equal ones the last first."""
    return scores.flip(0).argsort(descending=True, stable=True).neg_().add_(len(scores) - 1)


def lamp(scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
    """One ranking over all tensors by `Lamp`: each tensor keeps as many weights as are above the common threshold."""
    ranked = [replace(s, criterion=Lamp(_asked_once(s))) for s in scores.values()]
    cuts = rank(ranked, keep, [floors[name] for name in scores])
    return {name: cut.kept for name, cut in zip(scores, cuts, strict=True)}


def _asked_once(scores: Scores) -> Criterion:
    """The criterion; of a function its scores so far, since it may be slow or draw at random."""
    return scores.criterion if isinstance(scores.criterion, StreamedCriterion) else lambda *_: scores.tensor
