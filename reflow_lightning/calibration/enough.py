"""As many batches as the statistics need: reading stops when their standard error is small enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.running.batches import Batches
from reflow_lightning.running.processes import gather
from reflow_lightning.signal.statistics import merge_moments

TOLERANCE = 0.012
"""Standard error of a network's statistics at which there are enough batches, in standard deviations of its layers."""

LEAST_BATCHES = 5
"""Fewer batches do not tell how much batches differ."""

_NO_MORE = object()


def drawn(part: Tensor) -> Tensor:
    """A batch as one draw of each channel's mean and variance, to be merged with others by `merge_moments`.

    Args:
        part: `moments` of a layer over the batch, of shape (3, C).

    Returns:
        Tensor of shape (3, 2C), on the CPU: one value each, the C means and the C variances, no deviations.

    Example:
        >>> drawn(torch.tensor([[4.0], [1.0], [8.0]])).tolist()
        [[1.0, 1.0], [1.0, 2.0], [0.0, 0.0]]
    """
    count, mean, squares = part.double().cpu()
    values = torch.cat([mean, squares / count.clamp(min=1)])
    return torch.stack([torch.ones_like(values), values, torch.zeros_like(values)])


def standard_error(draws: Tensor) -> Tensor:
    """Root mean square error of a channel, normalised by statistics of K batches, that they alone would cause.

    With m the mean and v the variance of a batch, s the standard deviation between the batches, and the variance of all
    together ``var = mean(v) + var(m)``, the standard errors are ``s(m) / sqrt(K)`` of the mean, ``s(v) / sqrt(K)`` of
    the variance, and ``s(v) / sqrt(K) / var`` of the logarithm of the variance. A normalised activation
    ``(x - mean) / sqrt(var)`` is then off by ``SE(mean) / sqrt(var)``, and by half of ``SE(log var)`` of itself. What
    is drawn at random are the batches, not the values within them, which depend on each other.

    Args:
        draws: Merged `drawn`, of shape (3, 2C).

    Returns:
        Tensor of shape (C,), in standard deviations of the channel: 0 for a channel that is constant, infinite for
        fewer than two batches.

    Example:
        >>> batches = [torch.tensor([[2.0], [mean], [2.0]]) for mean in (-1.0, 1.0)]
        >>> round(standard_error(merge_moments(torch.stack([drawn(part) for part in batches]))).item(), 6)
        0.707107
    """
    count, centre, squares = draws
    if not bool((count > 1).all()):
        return torch.full((draws.shape[1] // 2,), torch.inf, dtype=torch.float64)
    of_mean, of_variance = (squares / (count * (count - 1))).chunk(2)  # squared
    variance = centre.chunk(2)[1] + (squares / count).chunk(2)[0]
    squared = of_mean / variance + of_variance / variance.square() / 4
    return torch.where(variance == 0, 0.0, squared).sqrt()


class Precision:
    """How well the statistics of all layers are known, from the batches of all processes.

    Example:
        >>> precision = Precision()
        >>> for mean in (-1.0, 1.0):
        ...     precision.update({"layer": drawn(torch.tensor([[2.0], [mean], [2.0]]))})
        >>> round(precision.error(), 3), precision.batches
        (0.707, 2)
    """

    def __init__(self) -> None:
        self._draws: dict[str, Tensor] = {}

    def update(self, draws: Mapping[str, Tensor]) -> None:
        """Take in the `drawn` of a batch, by layer."""
        for name, draw in draws.items():
            before = self._draws.get(name)
            self._draws[name] = draw if before is None else merge_moments(torch.stack([before, draw]))

    @property
    def batches(self) -> int:
        """Number of batches taken in."""
        return max((int(draws[0].max()) for draws in self._draws.values()), default=0)

    def errors(self) -> dict[str, float]:
        """`standard_error` of each layer, the root mean square over its channels."""
        return {name: _root_mean_square(standard_error(draws)) for name, draws in self._draws.items()}

    def error(self) -> float:
        """The root mean square over all layers; infinite before there are any."""
        errors = list(self.errors().values())
        return _root_mean_square(torch.tensor(errors, dtype=torch.float64)) if errors else torch.inf

    def enough(self) -> bool:
        """Whether more batches would change little; also if a value is NaN, which more batches can't mend."""
        return self.batches >= LEAST_BATCHES and not self.error() > TOLERANCE

    def __str__(self) -> str:
        errors = self.errors()
        worst = max(errors, key=errors.__getitem__)
        return f"{self.error():.3g} standard deviations; the largest, {errors[worst]:.3g}, is layer '{worst}'"


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def read(batches: Iterable[Any], take_in: Callable[[Any], Mapping[str, Tensor]]) -> None:
    """Have every batch taken in, or of `Batches` with ``"auto"`` as many as the statistics need.

    Where processes run together, all must call it, with ``"auto"`` in each or in none, within a `together` block. Under
    ``"auto"`` they meet after each round of a batch each and stop in the same one; a process without batches takes part
    too. Otherwise nothing is exchanged.

    Batches in a meaningful order, such as sorted by class, resemble their neighbours and look precise too early.

    Args:
        batches: Any iterable of batches.
        take_in: Takes a batch in and returns its `moments`, of shape (3, C), by the name of each layer whose precision
            counts. A batch that is passed over gives none.

    Example:
        >>> import torch
        >>> from reflow_lightning.signal.statistics import moments
        >>> generator = torch.Generator().manual_seed(0)
        >>> source = (torch.randn(1000, 4, generator=generator) for _ in range(200))
        >>> batches = Batches(source, "auto", torch.device("cpu"), task="looking")
        >>> read(batches, lambda batch: {"input": moments(batch)})
        >>> batches.count
        11
    """
    if not (isinstance(batches, Batches) and batches.auto):
        for batch in batches:
            take_in(batch)
        return
    precision = Precision()
    for batch in chain(batches, repeat(_NO_MORE)):
        parts = None if batch is _NO_MORE else take_in(batch)
        draws = None if parts is None else {n: drawn(part) for n, part in parts.items() if bool(part[0].any())}
        taken_in = [of_rank for of_rank in gather(draws) if of_rank is not None]
        for of_rank in taken_in:
            precision.update(of_rank)
        if precision.enough():
            return
        if not taken_in:
            break
    if precision.batches:
        batches.imprecise = f"their standard error is {precision}; {TOLERANCE:g} is enough"


def sufficient(batches: Iterable[Any], take_in: Callable[[Any], Mapping[str, Tensor]]) -> Iterable[Any]:
    """The batches, or of `Batches` with ``"auto"`` as many of the first as `read` takes in; to be read again.

    Args:
        batches: Any iterable of batches.
        take_in: See `read`; called under ``"auto"`` only.

    Example:
        >>> list(sufficient([1, 2], take_in=lambda batch: {}))
        [1, 2]
    """
    if not (isinstance(batches, Batches) and batches.auto):
        return batches
    read(batches, take_in)
    return First(batches, batches.count)


def as_many(batches: Iterable[Any]) -> Iterable[Any]:
    """The batches, or of `Batches` with ``"auto"`` as many as an earlier pass has taken."""
    if isinstance(batches, Batches) and batches.auto and batches.count > 1:
        return First(batches, batches.count)
    return batches


class First:
    """The first ``count`` batches of others, to be read again and again."""

    def __init__(self, batches: Iterable[Any], count: int) -> None:
        self._batches, self.count = batches, count

    def __iter__(self) -> Iterator[Any]:
        return islice(self._batches, self.count)
