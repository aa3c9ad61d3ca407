"""Signs of pre-activations: how often the rectifier after each neuron is on, and the entropy of that."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reflow_lightning.running.exact import as_exact
from reflow_lightning.signal.statistic import Summed
from reflow_lightning.signal.statistics import by_channel, pieces

Zeros = Literal["ignore", "off"]
"""What a pre-activation of exactly zero counts as: nothing, since every rectifier maps it alike, or off."""


class ChannelSigns(NamedTuple):
    """How many values of each channel are positive, and how many negative; each of shape (C,)."""

    positive: Tensor
    negative: Tensor


class NeuronCounts(NamedTuple):
    """How many values of each neuron are in which state; each of shape (C,).

    Attributes:
        on: Positive, and not above the rectifier's ceiling.
        off: Negative.
        zero: Exactly zero.
        above: Above the ceiling of a ReLU6 or Hardtanh, where its output is constant; else none.
    """

    on: Tensor
    off: Tensor
    zero: Tensor
    above: Tensor


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


def position_signs(values: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Sum and number of the signs over a dimension, such as the positions of (N, C, positions)."""
    sign = values.sign().float()  # the sums of ones are exact in it
    return sign.sum(dim), sign.square_().sum(dim)  # both are much faster than counting booleans


def merge_position_signs(difference: Tensor, total: Tensor) -> Tensor:
    """The `signs` of samples whose `position_signs` are known."""
    return as_exact(torch.stack([total + difference, total - difference])).sum(1) / 2


def neuron_states(values: Tensor, dim: int = 1, *, ceiling: float = math.inf) -> Tensor:
    """Number of values of each neuron in each state of `NeuronCounts`.

    A neuron is a channel: its values are at all samples and positions, or tokens. Of one that is NaN somewhere
    nothing is known, and all numbers are NaN.

    Args:
        values: Pre-activations, any floating type.
        dim: The channel dimension.
        ceiling: The value above which the rectifier's output is constant.

    Returns:
        Tensor of shape (4, C), in float64.

    Example:
        >>> neuron_states(torch.tensor([[1.0, -5.0], [8.0, 0.0]]), ceiling=6).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    """
    positive, negative = signs(values, dim)
    above = torch.zeros_like(positive) if ceiling == math.inf else signs(values - ceiling, dim)[0]
    total = values.numel() / max(1, len(positive))
    unknown = by_channel(values, dim).sum((0, 2)).isnan().to(positive.device)  # much faster than a look at each value
    return torch.stack([positive - above, negative, total - positive - negative, above]).masked_fill(unknown, math.nan)


class Signs(Summed[ChannelSigns]):
    """Streaming number of positive and of negative values of each channel; `update` takes the `signs` of a part.

    Args:
        channels: Number of channels.

    Example:
        >>> statistic = Signs(channels=2)
        >>> statistic.update(signs(torch.tensor([[1.0, -5.0]])))
        >>> statistic.update(signs(torch.tensor([[-3.0, -5.0]])))
        >>> mean_entropy(statistic.compute()).item(), saturated_channels(statistic.compute()).item()
        (0.5, 0.5)
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, state=torch.zeros(2, channels, dtype=torch.float64))

    def value(self) -> ChannelSigns:
        """Both numbers, each of shape (C,)."""
        return ChannelSigns(*self.state.clone())


class NeuronStates(Summed[NeuronCounts]):
    """Streaming number of values of each neuron in each state; `update` takes the `neuron_states` of a part.

    Args:
        channels: Number of neurons.

    Example:
        >>> statistic = NeuronStates(channels=2)
        >>> statistic.update(neuron_states(torch.tensor([[1.0, -5.0]])))
        >>> statistic.update(neuron_states(torch.tensor([[-3.0, -5.0]])))
        >>> neuron_entropy(statistic.compute()).tolist()
        [1.0, 0.0]
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, state=torch.zeros(4, channels, dtype=torch.float64))

    def value(self) -> NeuronCounts:
        """The numbers, each of shape (C,)."""
        return NeuronCounts(*self.state.clone())


def neuron_entropy(counts: NeuronCounts, zeros: Zeros = "ignore") -> Tensor:
    """Entropy of each neuron's state, in bits: 0 where it never changes, 1 where it is on half the time.

    With p the share of values that are on, it is ``-p log2 p - (1 - p) log2(1 - p)`` (arXiv 2308.06619, 2404.16890),
    and 0 for a neuron of nothing but zeros. Under a ceiling there is a third state, so that it may reach log2 3: a
    neuron that passes the ceiling now and then is not linear, though it is always on.

    Args:
        counts: Numbers of values, pooled over all data; a mean of the entropies of batches would be too low.
        zeros: ``"ignore"`` leaves values of exactly zero out, ``"off"`` counts them as off.

    Returns:
        Tensor of shape (C,), in float64.

    Raises:
        ValueError: If ``zeros`` is neither.

    Example:
        >>> counts = NeuronCounts(*torch.tensor([[2.0, 4.0], [2.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
        >>> neuron_entropy(counts).tolist(), neuron_entropy(counts, zeros="off").tolist()
        ([1.0, 0.0], [1.0, 1.0])
    """
    check_zeros(zeros)
    off = counts.off + counts.zero if zeros == "off" else counts.off
    return _nats(counts.on, off, counts.above) / math.log(2)


def layer_entropy(counts: NeuronCounts, *, zeros: Zeros = "ignore", saturated: bool = True) -> float:
    """Mean of `neuron_entropy` over the neurons of a layer.

    Args:
        counts: Numbers of values.
        zeros: See `neuron_entropy`.
        saturated: Count the neurons of entropy 0 too. Without them it is 0 only if there are no others.

    Returns:
        The mean; NaN if the entropy of a neuron is.

    Example:
        >>> counts = NeuronCounts(*torch.tensor([[2.0, 4.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        >>> layer_entropy(counts), layer_entropy(counts, saturated=False)
        (0.5, 1.0)
    """
    entropy = neuron_entropy(counts, zeros)
    chosen = entropy if saturated else entropy[entropy != 0]
    return float(chosen.mean()) if len(chosen) else 0.0


def mean_entropy(channels: ChannelSigns) -> Tensor:
    """Mean of `neuron_entropy` over *all* channels, those that never switch included, where there is no ceiling.

    Example:
        >>> mean_entropy(ChannelSigns(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 0.0]))).item()
        0.5
    """
    return _nats(*channels).mean() / math.log(2)


def _nats(*states: Tensor) -> Tensor:
    """The entropy of the state of each neuron, of the number of values in each of its states."""
    counts = torch.stack(states).double()
    nats: Tensor = torch.special.entr(counts / counts.sum(0).clamp(min=1))
    return nats.sum(0)


def saturated_channels(channels: ChannelSigns) -> Tensor:
    """Share of channels of one sign: without a positive value on any sample and position, or without a negative one.

    A rectifier right after such a channel is always off or always on, zero or the identity, and adds no non-linearity.
    A channel that is all zero is among them. These are the channels whose `neuron_entropy` is 0.

    Example:
        >>> saturated_channels(ChannelSigns(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 0.0]))).item()
        0.5
    """
    return ((channels.positive == 0) | (channels.negative == 0)).double().mean()


def check_zeros(zeros: str) -> None:
    """Check a `Zeros`.

    Raises:
        ValueError: If it is none.
    """
    if zeros not in ("ignore", "off"):
        raise ValueError(f"zeros={zeros!r} must be 'ignore' or 'off'")
