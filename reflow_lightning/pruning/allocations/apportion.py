"""A total that is shared out over layers in whole numbers, within bounds."""

from __future__ import annotations

from collections.abc import Mapping

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


def most_kept(scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
    """The most that each tensor may keep: what earlier masks left, if that suffices, so that nothing grows back.

    Rounding alone may let a tensor keep one weight more although fewer stay in all.
    """
    left = {name: max(floors[name], s.left) for name, s in scores.items()}
    return left if sum(left.values()) >= keep else {name: s.most for name, s in scores.items()}
