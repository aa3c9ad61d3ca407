"""Streaming statistics of activations whose states merge exactly: over batches, calls and ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

_PIECE = 1 << 18  # values that become float64 at once: bounds the extra memory and stays in the processor's cache


class ChannelMoments(NamedTuple):
    """Number of values in each channel, and their population mean and variance; each of shape (C,)."""

    values: Tensor
    mean: Tensor
    variance: Tensor


def _exact(values: Tensor) -> Tensor:
    """Float64, on a device that has it."""
    return values.to(exact_device(values)).double()


def exact_device(tensor: Tensor) -> torch.device:
    """The device of a tensor, or the CPU if that has no float64.

    Example:
        >>> exact_device(torch.ones(1))
        device(type='cpu')
    """
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device


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
    samples, channels, positions = values.shape
    if not samples:
        return torch.zeros(3, channels, dtype=torch.float64)
    parts = []
    for piece in torch.split(values, max(1, _PIECE // max(1, channels * positions))):
        exact = _exact(piece)
        count = torch.full((channels,), float(piece.shape[0] * positions), dtype=torch.float64, device=exact.device)
        mean = exact.mean((0, 2))
        squares = (exact - mean[:, None]).square_().sum((0, 2))
        parts.append(torch.stack([count, mean, squares]))
    return merge_moments(torch.stack(parts))


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


def merge_comoments(parts: Tensor) -> Tensor:
    """Merge `CenteredCosine` states of disjoint data.

    Args:
        parts: Tensor of shape (k, 6, C): count, both means, both sums of squared deviations, their products'.

    Returns:
        Tensor of shape (6, C).
    """
    count, mean_a, mean_b, squares_a, squares_b, products = parts.unbind(1)
    total, merged_a, merged_squares_a = merge_moments(torch.stack([count, mean_a, squares_a], 1))
    _, merged_b, merged_squares_b = merge_moments(torch.stack([count, mean_b, squares_b], 1))
    merged_products = (products + count * (mean_a - merged_a) * (mean_b - merged_b)).sum(0)
    return torch.stack([total, merged_a, merged_b, merged_squares_a, merged_squares_b, merged_products])


class _MomentState(Metric):
    """Accumulates `moments`; what is computed of them is up to the subclass."""

    full_state_update = False
    state: Tensor

    def __init__(self, channels: int, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.add_state("state", torch.zeros(3, channels, dtype=torch.float64), dist_reduce_fx=merge_moments)

    def update(self, values: Tensor) -> None:
        """Take in the activations of one call of a layer."""
        self.state = merge_moments(torch.stack([self.state, moments(values, self.dim).to(self.state.device)]))

    def _channels(self) -> ChannelMoments:
        count, mean, squares = self.state
        return ChannelMoments(count, mean, squares / count.clamp(min=1))


class Moments(_MomentState):
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

    def compute(self) -> ChannelMoments:
        """Number of values, mean and variance, each of shape (C,)."""
        return self._channels()


class MergedMoments(_MomentState):
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
        self.update(self.state.clone())  # nothing yet, which is no reason for a warning

    def update(self, part: Tensor) -> None:
        """Take in the moments of a part, of shape (3, C)."""
        self.state = merge_moments(torch.stack([self.state, part.to(self.state.device)]))

    def compute(self) -> ChannelMoments:
        """Number of values, mean and variance, each of shape (C,)."""
        return self._channels()


class DeadChannels(_MomentState):
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

    def compute(self) -> Tensor:
        """The share, in [0, 1]."""
        return dead_channels(self._channels())


def dead_channels(channels: ChannelMoments) -> Tensor:
    """Share of channels without signal: constant over all samples and positions, up to float32 rounding.

    Example:
        >>> dead_channels(ChannelMoments(torch.ones(2), torch.ones(2), torch.tensor([0.0, 0.1]))).item()
        0.5
    """
    return (channels.variance <= (1e-6 * channels.mean) ** 2 + 1e-24).double().mean()


class CenteredCosine(Metric):
    """Streaming cosine between the centred activations of a layer in two networks, given the same inputs.

    With a and b the activations pooled over positions, each of shape (N, C), centred by channel over all samples:
    ``sum(a * b) / sqrt(sum(a * a) * sum(b * b))``, and 0 where one of them is constant.

    Args:
        channels: Number of channels.

    Example:
        >>> statistic = CenteredCosine(channels=1)
        >>> statistic.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0], [30.0]]))
        >>> round(statistic.compute().item(), 6)
        1.0
    """

    full_state_update = False
    higher_is_better = True
    state: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.add_state("state", torch.zeros(6, channels, dtype=torch.float64), dist_reduce_fx=merge_comoments)

    def update(self, values: Tensor, reference: Tensor) -> None:
        """Take in the pooled activations of both networks, of shape (N, C)."""
        a, b = _exact(values.detach()), _exact(reference.detach())
        count = torch.full((a.shape[1],), float(a.shape[0]), dtype=torch.float64, device=a.device)
        mean_a, mean_b = a.mean(0), b.mean(0)
        a, b = a - mean_a, b - mean_b
        part = torch.stack([count, mean_a, mean_b, a.square().sum(0), b.square().sum(0), (a * b).sum(0)])
        self.state = merge_comoments(torch.stack([self.state, part.to(self.state.device)]))

    def compute(self) -> Tensor:
        """The cosine, in [-1, 1]."""
        squares_a, squares_b, products = self.state[3:].sum(1)
        scale = (squares_a * squares_b).sqrt()
        return torch.where(scale == 0, 0.0, products / scale.clamp(min=1e-300))  # NaN stays NaN
