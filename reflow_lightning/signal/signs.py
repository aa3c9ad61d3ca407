"""Signs of pre-activations: how often a rectifier after a layer is on, and in how many channels it never switches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from reflow_lightning.running.exact import exact_device
from reflow_lightning.signal.statistics import by_channel, pieces


class ChannelSigns(NamedTuple):
    """How many values of each channel are positive, and how many negative; each of shape (C,)."""

    positive: Tensor
    negative: Tensor


def signs(values: Tensor, dim: int = 1) -> Tensor:
    """Number of positive and of negative values in each channel; zeros count as neither.

    Args:
        values: Activations, any floating type.
        dim: The channel dimension.

    Returns:
        Tensor of shape (2, C), in float64.

    Example:
        >>> signs(torch.tensor([[1.0, -5.0], [3.0, 0.0]])).tolist()
        [[2.0, 0.0], [0.0, 1.0]]
    """
    values = by_channel(values.detach(), dim)
    if not len(values):
        return torch.zeros(2, values.shape[1], dtype=torch.float64)
    parts = [merge_position_signs(*position_signs(piece)) for piece in pieces(values)]
    return torch.stack(parts).sum(0)


def position_signs(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and number of the signs over the positions of (N, C, positions), each of shape (N, C)."""
    sign = values.sign().float()  # the sums of ones are exact in it
    return sign.sum(-1), sign.square_().sum(-1)  # both are much faster than counting booleans


def merge_position_signs(difference: Tensor, total: Tensor) -> Tensor:
    """The `signs` of samples whose `position_signs` are known."""
    sums = torch.stack([total + difference, total - difference])
    return sums.to(exact_device(sums)).double().sum(1) / 2


class Signs(Metric):
    """Streaming number of positive and of negative values of each channel.

    Args:
        channels: Number of channels.

    Example:
        >>> statistic = Signs(channels=2)
        >>> statistic.update(signs(torch.tensor([[1.0, -5.0]])))
        >>> statistic.update(signs(torch.tensor([[-3.0, -5.0]])))
        >>> neuron_entropy(statistic.compute()).item(), saturated_channels(statistic.compute()).item()
        (0.5, 0.5)
    """

    full_state_update = False
    state: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.add_state("state", torch.zeros(2, channels, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, part: Tensor) -> None:
        """Take in the `signs` of a part, of shape (2, C)."""
        self.state = self.state + part.to(self.state.device)

    def compute(self) -> ChannelSigns:
        """Both numbers, each of shape (C,)."""
        return ChannelSigns(*self.state)


def neuron_entropy(channels: ChannelSigns) -> Tensor:
    """Mean over channels of the entropy of a channel's on/off state, in bits: 1 where it is on half the time.

    With p the share of positive values among those that are not zero, over all samples and positions, the entropy of a
    channel is ``-p log2 p - (1 - p) log2(1 - p)``, and 0 if all its values are zero. The entropy of arXiv 2308.06619
    and 2404.16890, but averaged over *all* channels, those that never switch included. Counts are pooled before the
    entropy is taken: a mean of the entropies of batches would be too low.

    Example:
        >>> neuron_entropy(ChannelSigns(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 0.0]))).item()
        0.5
    """
    positive, negative = channels
    on = positive / (positive + negative).clamp(min=1)
    off = negative / (positive + negative).clamp(min=1)
    return -(torch.xlogy(on, on) + torch.xlogy(off, off)).mean() / torch.log(on.new_tensor(2.0))


def saturated_channels(channels: ChannelSigns) -> Tensor:
    """Share of channels of one sign: without a positive value on any sample and position, or without a negative one.

    A rectifier right after such a channel is always off or always on, zero or the identity, and adds no non-linearity.
    A channel that is all zero is among them. These are the channels whose entropy in `neuron_entropy` is 0.

    Example:
        >>> saturated_channels(ChannelSigns(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 0.0]))).item()
        0.5
    """
    return ((channels.positive == 0) | (channels.negative == 0)).double().mean()
