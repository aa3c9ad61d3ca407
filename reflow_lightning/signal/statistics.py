"""Streaming statistics of activations whose states merge exactly: over batches, calls and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from reflow_lightning.running.exact import exact
from reflow_lightning.signal.statistic import Statistic, Value, stacked

_PIECE = 1 << 17  # values that become float64 at once: bounds the extra memory and stays in the processor's cache


class ChannelMoments(NamedTuple):
    """Number of values in each channel, and their population mean and variance; each of shape (C,)."""

    values: Tensor
    mean: Tensor
    variance: Tensor


def by_channel(values: Tensor, dim: int = 1) -> Tensor:
    """View activations as (N, C, positions).

    Args:
        values: Activations with at least one dimension; (C,) is one sample.
        dim: The channel dimension.

    Example:
        >>> by_channel(torch.zeros(2, 5, 3), dim=-1).shape
        torch.Size([2, 3, 5])
    """
    values = (values[None] if values.ndim == 1 else values).movedim(dim, 1)
    return values.reshape(*values.shape[:2], -1) if values.numel() else values.new_empty(0, values.shape[1], 0)


def moments(values: Tensor, dim: int = 1) -> Tensor:
    """Count, mean and sum of squared deviations of each channel, in float64.

    Args:
        values: Activations, any floating type.
        dim: The channel dimension.

    Returns:
        Tensor of shape (3, C).

    Example:
        >>> moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).tolist()
        [[2.0, 2.0], [2.0, 5.0], [2.0, 0.0]]
    """
    values = by_channel(values.detach(), dim)
    if not len(values):
        return torch.zeros(3, values.shape[1], dtype=torch.float64)
    parts = [merge_positions(*position_moments(piece), values.shape[2]) for piece in pieces(values)]
    return merge_moments(torch.stack(parts))


def pieces(values: Tensor) -> tuple[Tensor, ...]:
    """Activations of shape (N, C, positions), or rows of a matrix, a few at a time."""
    size = _PIECE if values.device.type == "cpu" else _PIECE << 6  # other devices have no small cache, but slow starts
    return torch.split(values, max(1, size // max(1, math.prod(values.shape[1:]))))


def position_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations over the positions of (N, C, positions), each of shape (N, C), in float64."""
    deviations = exact(values)
    mean = deviations.mean(-1)
    return mean, deviations.sub_(mean[..., None]).square_().sum(-1)


def merge_positions(mean: Tensor, squares: Tensor, positions: int) -> Tensor:
    """The `moments` of samples whose `position_moments` are known."""
    merged = mean.mean(0)
    between = (mean - merged).square_().sum(0)
    return torch.stack([torch.full_like(merged, len(mean) * positions), merged, squares.sum(0) + positions * between])


def merge_moments(parts: Tensor) -> Tensor:
    """Merge moments of disjoint data: the law of total variance, so the result does not depend on the split.

    Args:
        parts: Tensor of shape (k, 3, C); a part without data may hold anything finite in its mean.

    Returns:
        Tensor of shape (3, C).

    Example:
        >>> parts = torch.stack([moments(torch.tensor([[1.0]])), moments(torch.tensor([[3.0]]))])
        >>> merge_moments(parts).flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    count, mean, squares = parts.unbind(1)
    total = count.sum(0)
    # Deviations from the first part's mean are small even where the mean is large, so nothing cancels.
    origin = mean[count.argmax(0), torch.arange(mean.shape[1], device=mean.device)]
    merged = origin + (count * (mean - origin)).sum(0) / total.clamp(min=1)
    return torch.stack([total, merged, (squares + count * (mean - merged).square()).sum(0)])


class _MomentState(Statistic[Value]):
    """Accumulates `moments`; what they tell is up to the subclass."""

    merges = MappingProxyType({"state": stacked(merge_moments)})
    state: Tensor

    def __init__(self, channels: int, dim: int = 1) -> None:
        super().__init__(channels, state=torch.zeros(3, channels, dtype=torch.float64))
        self.dim = dim

    def update(self, values: Tensor) -> None:
        """Take in the activations of one call of a layer."""
        self._take_in(moments(values, self.dim))

    def _take_in(self, *parts: Tensor) -> None:
        found = [part.to(self.state.device) for part in parts]
        if self.state is not self._empty["state"]:
            found.insert(0, self.state)
        self.state = merge_moments(torch.stack(found)) if len(found) > 1 else found[0]

    def _channels(self) -> ChannelMoments:
        count, mean, squares = self.state.clone()  # the caller may write into what it gets
        return ChannelMoments(count, mean, squares / count.clamp(min=1))


class Moments(_MomentState[ChannelMoments]):
    """Streaming number of values, mean and population variance of each channel.

    Args:
        channels: Number of channels.
        dim: The channel dimension of what `update` gets.

    Example:
        >>> statistic = Moments(channels=2)
        >>> statistic.update(torch.tensor([[1.0, 5.0]]))
        >>> statistic.update(torch.tensor([[3.0, 5.0]]))
        >>> statistic.compute().variance.tolist()
        [1.0, 0.0]
    """

    def value(self) -> ChannelMoments:
        """Number of values, mean and variance, each of shape (C,)."""
        return self._channels()


class MergedMoments(Moments):
    """`Moments` of parts whose `moments` were taken elsewhere.

    Args:
        channels: Number of channels.

    Example:
        >>> statistic = MergedMoments(channels=1)
        >>> statistic.update(moments(torch.tensor([[1.0], [3.0]])))
        >>> statistic.compute().mean.item()
        2.0
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def update(self, *parts: Tensor) -> None:
        """Take in the moments of parts, each of shape (3, C)."""
        self._take_in(*parts)


def update_all(statistics: Mapping[str, MergedMoments], parts: Mapping[str, Tensor]) -> None:
    """Take in the moments of a part for each of many layers, in few operations for all layers of a device together.

    Args:
        statistics: By name of the layer.
        parts: `moments`, by some of the names.

    Example:
        >>> statistics = {"a": MergedMoments(1), "b": MergedMoments(2)}
        >>> update_all(statistics, {"b": moments(torch.tensor([[1.0, 3.0]])), "a": moments(torch.tensor([[5.0]]))})
        >>> statistics["a"].compute().mean.item(), statistics["b"].compute().mean.tolist()
        (5.0, [1.0, 3.0])
    """
    for device in {statistics[name].state.device for name in parts}:
        names = [name for name in parts if statistics[name].state.device == device]
        before = torch.cat([statistics[name].state for name in names], 1)
        merged = merge_moments(torch.stack([before, torch.cat([parts[name].to(device) for name in names], 1)]))
        for name, state in zip(names, torch.split(merged, [parts[name].shape[1] for name in names], 1), strict=True):
            statistics[name].state = state


class DeadChannels(_MomentState[Tensor]):
    """Streaming share of dead channels, as `dead_channels` defines them.

    Args:
        channels: Number of channels.
        dim: The channel dimension of what `update` gets.

    Example:
        >>> statistic = DeadChannels(channels=2)
        >>> statistic.update(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> statistic.compute().item()
        0.5
    """

    higher_is_better = False

    def value(self) -> Tensor:
        """The share, in [0, 1]."""
        return dead_channels(self._channels())


def dead_channels(channels: ChannelMoments) -> Tensor:
    """Share of channels without signal: constant over all samples and positions, up to float32 rounding.

    Example:
        >>> dead_channels(ChannelMoments(torch.ones(2), torch.ones(2), torch.tensor([0.0, 0.1]))).item()
        0.5
    """
    return is_constant(channels.variance, channels.mean).double().mean()


def is_constant(variance: Tensor, mean: Tensor) -> Tensor:
    """Whether values with these moments are all the same, up to float32 rounding."""
    return variance <= (1e-6 * mean) ** 2 + 1e-24
