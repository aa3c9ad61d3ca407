"""How long a run has taken, with what it took before it was stopped and resumed."""

from __future__ import annotations

import time


class Clock:
    """Counts the seconds of a run, and goes on where a checkpoint was.

    Attributes:
        before: Seconds of the run up to the checkpoint that it was resumed from.

    Example:
        >>> clock = Clock()
        >>> clock.go_on_from(100.0)
        >>> clock.seconds() >= 100
        True
    """

    def __init__(self) -> None:
        self.before = 0.0
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Seconds of the run until now."""
        return self.before + time.perf_counter() - self._start

    def go_on_from(self, seconds: float) -> None:
        """So many had passed at the checkpoint; what has passed since, to load it, counts as well."""
        self.before = seconds
