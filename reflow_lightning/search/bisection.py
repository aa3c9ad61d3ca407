"""Bisection over the sparsity, which begins with coarse steps since a score need not fall steadily."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def sparsest(
    within: Callable[[float], bool], coarse: Iterable[float], least: float, most: float, tolerance: float
) -> float:
    """The sparsest that bisection finds within a drop: 0, or a sparsity for which ``within`` has held.

    First every coarse sparsity is asked about. Bisection goes on between the sparsest that held and the next one above
    it, until they are at most ``tolerance`` apart: so the upper one did not hold, or is ``most``. If ``within`` holds
    up to some sparsity and not beyond, the result is at most ``tolerance`` below that. If not, there may be sparser
    ones that were not asked about. It asks at most ``len(coarse) + 1 + log2(1 / tolerance)`` times, rounded up.

    Args:
        within: Whether a sparsity is within the drop.
        coarse: Sparsities to begin with; those outside the bounds are left out.
        least: There is none below, except the dense network.
        most: There is none from here on.
        tolerance: See above.

    Example:
        >>> sparsest(lambda sparsity: sparsity < 0.8, (0.25, 0.5), least=0, most=1, tolerance=0.1)
        0.75
    """
    grid = sorted({sparsity for sparsity in (*coarse, least) if max(least, 0) <= sparsity < most} - {0})
    found = max([sparsity for sparsity in grid if within(sparsity)], default=0.0)
    if not found and least:
        return found
    above = min([sparsity for sparsity in grid if sparsity > found], default=most)
    while above - found > tolerance:
        middle = (found + above) / 2
        found, above = (middle, above) if within(middle) else (found, middle)
    return found
