"""How much of a test set was tested, and how far an accuracy on it may be from that on all data of its kind."""

from __future__ import annotations

import math

import lightning.pytorch as pl
from lightning.fabric.utilities.data import sized_len

_QUANTILE = 1.959964  # of the normal distribution, for 95 %

_SHARES = ("accuracy",)
"""Metrics that are the share of the test's samples that are right."""


def wilson(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent samples, after Wilson (1927).

    It holds near 0 and 1 as well, where the usual interval would leave [0, 1].

    Args:
        share: Found in the samples, in [0, 1].
        samples: Number of samples, at least 1.

    Example:
        >>> tuple(round(end, 3) for end in wilson(355 / 360, 360))
        (0.968, 0.994)
    """
    squared = _QUANTILE**2
    centre = (share + squared / (2 * samples)) / (1 + squared / samples)
    half = _QUANTILE * math.sqrt(share * (1 - share) / samples + squared / (4 * samples**2)) / (1 + squared / samples)
    return max(0.0, centre - half), min(1.0, centre + half)


def share_tested(tester: pl.Trainer) -> dict[str, int] | None:
    """The batches that were tested and those that there are; nothing where a stream has no length."""
    loaders = tester.test_dataloaders
    sizes = [sized_len(loader) for loader in (loaders if isinstance(loaders, list) else [loaders])]
    if None in sizes:
        return None
    return {"batches": int(sum(tester.num_test_batches)), "of": sum(size for size in sizes if size is not None)}


def interval(metric: str, value: float, tester: pl.Trainer) -> list[float] | None:
    """The 95 % interval of an accuracy.

    Args:
        metric: What was tested.
        value: What was found.
        tester: The trainer that tested it.

    Returns:
        Both ends; nothing of a metric that is no share of samples, of a part of the data, or of a stream.
    """
    loaders = tester.test_dataloaders
    data = [getattr(loader, "dataset", None) for loader in (loaders if isinstance(loaders, list) else [loaders])]
    sizes = [size for each in data if (size := sized_len(each)) is not None]
    tested = share_tested(tester)
    if metric not in _SHARES or tested is None or tested["batches"] < tested["of"] or len(sizes) < len(data):
        return None
    return list(wilson(value, sum(sizes))) if sum(sizes) else None
