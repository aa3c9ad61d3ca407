"""What `find_sparsity` is given, checked before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from reflow_lightning.running.processes import gather
from reflow_lightning.search.trials import Trial


def check_limits(max_drop: float, tolerance: float, coarse: Sequence[float] = ()) -> None:
    """Check the limits of a search; see `find_sparsity`.

    Raises:
        ValueError: If one is out of range.

    Example:
        >>> check_limits(max_drop=-0.01, tolerance=0.005)
        Traceback (most recent call last):
        ValueError: max_drop=-0.01 must be a number of at least 0: 0.01 if an accuracy may lose a hundredth
    """
    if not _is_number(max_drop) or not 0 <= max_drop < math.inf:
        raise ValueError(
            f"max_drop={max_drop!r} must be a number of at least 0: 0.01 if an accuracy may lose a hundredth"
        )
    if not _is_number(tolerance) or not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r} is outside (0, 1): 0.005 finds the sparsity to half a percent")
    if not all(_is_number(sparsity) and 0 < sparsity < 1 for sparsity in coarse):
        raise ValueError(f"coarse={coarse!r} must hold sparsities in (0, 1)")


def check_repeatable(batches: Iterable[Any]) -> None:
    """Check that batches can be iterated anew in each trial.

    Raises:
        TypeError: If they can't.
    """
    if isinstance(batches, Iterator):
        raise TypeError(
            f"batches is a {type(batches).__name__}, which can be iterated only once, but each trial does so: "
            "pass a DataLoader or a list"
        )


def check_alike(known: Mapping[float, Trial]) -> None:
    """Check that all processes know the same trials, as all take the same path.

    Raises:
        ValueError: If they don't.
    """
    if len(set(gather(str(sorted((asked, trial.score) for asked, trial in known.items()))))) > 1:
        raise ValueError("known holds other trials on some processes: give all of them the same ones")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def as_number(score: Any) -> float:
    """The score that ``evaluate`` returned, as a number.

    Raises:
        TypeError: If it is none.

    Example:
        >>> import torch
        >>> as_number(torch.tensor([0.5]))
        0.5
    """
    if _is_number(score) or (isinstance(score, Tensor) and score.numel() == 1 and not score.is_complex()):
        return float(score)
    shown = f"a tensor of shape {tuple(score.shape)}" if isinstance(score, Tensor) else repr(score)
    raise TypeError(f"evaluate returned {shown}: it must return one number, higher being better")


def comparable(score: float) -> float:
    """A score that can be compared with others; minus infinity is one, and worse than all others.

    Raises:
        ValueError: If it is NaN or plus infinity.
    """
    if math.isnan(score) or score == math.inf:
        raise ValueError(f"evaluate returned {score}: let it return a number that can be compared")
    return score
