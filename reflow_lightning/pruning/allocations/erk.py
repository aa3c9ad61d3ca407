"""Erdős-Rényi-Kernel: more of small layers."""

from __future__ import annotations

from collections.abc import Mapping

from reflow_lightning.pruning.allocations.apportion import apportion, most_kept
from reflow_lightning.pruning.allocations.registry import register_allocation
from reflow_lightning.pruning.scores import Scores


def erk(scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
    """Erdős-Rényi-Kernel (*Rigging the Lottery*, arXiv 1911.11134): small layers keep a larger share.

    The share that a tensor of shape (n_1, ..., n_d) keeps is proportional to ``(n_1 + ... + n_d) / (n_1 * ... * n_d)``,
    so the number of its weights that stay is proportional to the sum of its dimensions; a tensor that would keep more
    than it has stays dense.
    """
    sizes = {name: float(sum(s.shape)) if s.size else 0.0 for name, s in scores.items()}
    return apportion(keep, sizes, floors, most_kept(scores, keep, floors))


register_allocation("erk", erk)
