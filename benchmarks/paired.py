"""Times of several functions that are run by turns in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of functions, measured by turns.

    Attributes:
        seconds: By name of the function, one number a turn, in the same order for all.
    """

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """The median of a function's seconds."""
        return median(self.seconds[name])

    def ratios(self, name: str, other: str) -> list[float]:
        """The seconds of a function over those of another in the same turn."""
        return [a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)]

    def ratio(self, name: str, other: str) -> float:
        """The median of the ratios."""
        return median(self.ratios(name, other))

    def spread(self, name: str, other: str) -> str:
        """The median of the ratios and their quartiles, in words."""
        ratios = self.ratios(name, other)
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
        return f"{median(ratios):.2f} ({low:.2f} to {high:.2f})"


def by_turns(functions: Mapping[str, Callable[[], object]], turns: int, warm_up: int = 1) -> Times:
    """Run functions by turns.

    Args:
        functions: By name. Each does the same work whenever it is called.
        turns: How often each is timed.
        warm_up: How often each runs before, untimed.

    Returns:
        Their times. On a GPU each ends when the device is done.
    """
    for _ in range(warm_up):
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            _wait()
            start = time.perf_counter()
            function()
            _wait()
            seconds[name].append(time.perf_counter() - start)
    return Times(seconds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
