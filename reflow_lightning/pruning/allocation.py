"""Allocation: how many weights each tensor keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from reflow_lightning.pruning.layerwise import erk, lamp, uniform
from reflow_lightning.pruning.ranking import Cut, rank
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.forward import Forward

Allocation = Callable[[Mapping[str, Scores], int, Mapping[str, int]], Mapping[str, int]]
"""``(scores by name, number of weights to keep, least number by name) -> number to keep by name``."""


@runtime_checkable
class DataAllocation(Protocol):
    """An allocation that needs data: what it finds on them is an ordinary `Allocation`."""

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Allocation:
        """Read the batches once and leave the model as it is; see `DataCriterion.estimate`."""


ALLOCATIONS: dict[str, Allocation | DataAllocation | None] = {
    "global": None,  # one ranking over all tensors
    "uniform": uniform,
    "erk": erk,
    "lamp": lamp,
}


def register_allocation(name: str, allocation: Allocation | DataAllocation) -> None:
    """Give an allocation a name, by which `prune` finds it."""
    ALLOCATIONS[name] = allocation


def resolve_allocation(allocation: str | Allocation | DataAllocation) -> Allocation | DataAllocation | None:
    """Look an allocation up by name; any other is returned as it is. ``None`` stands for one global ranking.

    Raises:
        ValueError: If the name is unknown.
    """
    if callable(allocation) or isinstance(allocation, DataAllocation):
        return allocation
    if allocation not in ALLOCATIONS:
        raise ValueError(
            f"allocation={allocation!r} is unknown: use one of {sorted(ALLOCATIONS)}, a callable, or an object with "
            "estimate"
        )
    return ALLOCATIONS[allocation]


def least_kept(total: int, most: Mapping[str, int], min_kept: float, keep: int) -> dict[str, int]:
    """The Minimum Threshold of each layer (arXiv 2209.14624): ``min(int(min_kept * all weights), its own weights)``.

    Args:
        total: Number of all selected weights.
        most: Number of weights that may stay, by name.
        min_kept: Fraction *of all selected weights* that each layer keeps.
        keep: Number of weights that stay in all.

    Raises:
        ValueError: If the floors alone exceed ``keep``.

    Example:
        >>> least_kept(100, {"conv": 2, "fc": 98}, min_kept=0.05, keep=10)
        {'conv': 2, 'fc': 5}
    """

    def floors(sigma: int) -> dict[str, int]:
        return {name: min(sigma, size) for name, size in most.items()}

    wanted = floors(int(min_kept * total + 1e-9))  # in floating point 0.29 * 100 is 28.999999999999996
    if sum(wanted.values()) > keep:
        feasible, beyond = 0, total
        while beyond - feasible > 1:
            middle = (feasible + beyond) // 2
            feasible, beyond = (middle, beyond) if sum(floors(middle).values()) <= keep else (feasible, middle)
        raise ValueError(
            f"min_kept={min_kept} asks for {sum(wanted.values())} weights, but the sparsity leaves only {keep}: "
            f"use min_kept <= {_rounded_down(feasible / total)} or a lower sparsity"
        )
    return wanted


def _rounded_down(share: float) -> str:
    return f"{int(share * 1e9) / 1e9:.9f}".rstrip("0").rstrip(".")


def allocate(
    scores: Mapping[str, Scores], keep: int, allocation: Allocation | None, floors: Mapping[str, int]
) -> list[Cut]:
    """Cut every tensor as the allocation says, or by one global ranking.

    Raises:
        ValueError: If the counts of a custom allocation do not fit the tensors or do not add up to ``keep``.
    """
    if allocation is None:
        return rank(list(scores.values()), keep, [floors[name] for name in scores])
    counts = allocation(scores, keep, floors)
    whole = all(isinstance(count, int) for count in counts.values())
    if not whole or set(counts) != set(scores) or sum(counts.values()) != keep:
        raise ValueError(
            f"allocation {allocation} gave {sum(counts.values())} weights for {len(counts)} tensors: "
            f"it must share out {keep} over {len(scores)}, in whole numbers"
        )
    for name, count in counts.items():
        if not floors[name] <= count <= scores[name].most:
            raise ValueError(
                f"allocation {allocation} gave {count} for '{name}': "
                f"it must lie between {floors[name]} and {scores[name].most}"
            )
    return [rank([s], counts[name])[0] for name, s in scores.items()]
