"""Layer-adaptive magnitude: one ranking by scores that are made comparable between layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reflow_lightning.pruning.allocations.registry import register_allocation
from reflow_lightning.pruning.criteria.protocols import Criterion, StreamedCriterion
from reflow_lightning.pruning.ranking import rank
from reflow_lightning.pruning.scores import Scores


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
    return scores.criterion if isinstance(scores.criterion, StreamedCriterion) else lambda *_: scores.of_whole


register_allocation("lamp", lamp)
