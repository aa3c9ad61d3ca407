"""One ranking over all tensors."""

from __future__ import annotations

from collections.abc import Mapping

from reflow_lightning.pruning.allocations.registry import register_allocation
from reflow_lightning.pruning.ranking import Cut, rank
from reflow_lightning.pruning.scores import Scores


def global_ranking(scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, Cut]:
    """Global Magnitude Pruning (arXiv 2209.14624), by any criterion: the largest scores of all tensors stay.

    It returns cuts, since one ranking finds them all.
    """
    return dict(zip(scores, rank(list(scores.values()), keep, [floors[name] for name in scores]), strict=True))


register_allocation("global", global_ranking)
