"""States of the neurons before a rectifier: how often each is on, and the entropy of that."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from reflow_lightning.signal.signs import signs
from reflow_lightning.signal.statistics import by_channel

Zeros = Literal["ignore", "off"]
"""What a pre-activation of exactly zero counts as: nothing, since every rectifier maps it alike, or off."""


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


def neuron_states(values: Tensor, dim: int = 1, ceiling: float = math.inf) -> Tensor:
    """Number of values of each neuron in each state of `NeuronCounts`.

    A neuron is a channel: its values are those of all samples and positions, or tokens. Of one that is NaN somewhere
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


class NeuronStates(Metric):
    """Streaming number of values of each neuron in each state.

    Args:
        channels: Number of neurons.

    Example:
        >>> statistic = NeuronStates(channels=2)
        >>> statistic.update(neuron_states(torch.tensor([[1.0, -5.0]])))
        >>> statistic.update(neuron_states(torch.tensor([[-3.0, -5.0]])))
        >>> neuron_entropy(statistic.compute()).tolist()
        [1.0, 0.0]
    """

    full_state_update = False
    state: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.add_state("state", torch.zeros(4, channels, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, part: Tensor) -> None:
        """Take in the `neuron_states` of a part, of shape (4, C)."""
        self.state = self.state + part.to(self.state.device)

    def compute(self) -> NeuronCounts:
        """The numbers, each of shape (C,)."""
        return NeuronCounts(*self.state)


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
    states = torch.stack([counts.on, off, counts.above]).double()
    nats: Tensor = torch.special.entr(states / states.sum(0).clamp(min=1))
    return nats.sum(0) / math.log(2)


def layer_entropy(counts: NeuronCounts, *, zeros: Zeros = "ignore", saturated: bool = True) -> float:
    """Mean of `neuron_entropy` over the neurons of a layer.

    Args:
        counts: Numbers of values.
        zeros: See `neuron_entropy`.
        saturated: Count the neurons of entropy 0 too. Without them it is 0 only if there are no others.

    Returns:
        The mean; NaN if that of a neuron is.

    Example:
        >>> counts = NeuronCounts(*torch.tensor([[2.0, 4.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        >>> layer_entropy(counts), layer_entropy(counts, saturated=False)
        (0.5, 1.0)
    """
    entropy = neuron_entropy(counts, zeros)
    chosen = entropy if saturated else entropy[entropy != 0]
    return float(chosen.mean()) if len(chosen) else 0.0


def check_zeros(zeros: str) -> None:
    """Check a `Zeros`.

    Raises:
        ValueError: If it is none.
    """
    if zeros not in ("ignore", "off"):
        raise ValueError(f"zeros={zeros!r} must be 'ignore' or 'off'")
