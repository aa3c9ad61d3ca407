"""The same share of every tensor."""

from __future__ import annotations

from collections.abc import Mapping

from reflow_lightning.pruning.allocations.apportion import apportion, most_kept
from reflow_lightning.pruning.allocations.registry import register_allocation
from reflow_lightning.pruning.scores import Scores


def uniform(scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
    """Every tensor keeps the same share of its weights, as nearly as whole numbers and floors allow."""
    sizes = {name: s.size for name, s in scores.items()}
    return apportion(keep, sizes, floors, most_kept(scores, keep, floors))


register_allocation("uniform", uniform)
