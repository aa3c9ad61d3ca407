"""From an allocation to cuts: how many weights each tensor keeps, and which."""

from __future__ import annotations

from collections.abc import Mapping

from reflow_lightning.pruning.allocations.protocols import Allocation
from reflow_lightning.pruning.ranking import Cut, rank
from reflow_lightning.pruning.scores import Scores


def allocate(scores: Mapping[str, Scores], keep: int, allocation: Allocation, floors: Mapping[str, int]) -> list[Cut]:
    """Cut every tensor as the allocation says.

    Raises:
        ValueError: If the allocation gives no counts, or they do not fit the tensors or do not add up to ``keep``.

    Example:
        >>> import torch
        >>> from reflow_lightning.pruning import Magnitude, uniform
        >>> scores = {"w": Scores("w", torch.tensor([1.0, 3.0, 2.0]), Magnitude())}
        >>> [cut.kept for cut in allocate(scores, 2, uniform, {"w": 0})]
        [2]
    """
    found = allocation(scores, keep, floors)
    if not isinstance(found, Mapping):
        raise ValueError(
            f"allocation {allocation} gave {type(found).__name__}: it must return the number of weights to keep by "
            f"name, a dictionary with {len(scores)} of them"
        )
    counts = {name: share.kept if isinstance(share, Cut) else share for name, share in found.items()}
    for name, count in counts.items():
        if not isinstance(count, int):
            raise ValueError(f"allocation {allocation} gave {count!r} for '{name}': it must be a whole number, an int")
    if set(counts) != set(scores) or sum(counts.values()) != keep:
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
    shares = ((s, found[name]) for name, s in scores.items())
    return [share if isinstance(share, Cut) else rank([s], share)[0] for s, share in shares]
