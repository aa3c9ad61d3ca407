"""What a repair of weights works on: affine maps, y = W x + b, and norms, y = w * x + b, whose parts can be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``y = sum_i W_i x_i + sum_j b_j``.

    All tensors are views of parameters with one row an output channel, so that what is written reaches the module.

    Attributes:
        name: Name of the layer, followed by the map's name if the layer has several.
        channels: Number of output channels.
        weights: The ``W_i``, each of shape (channels, ...). For a norm: its weight, of shape (channels,).
        biases: The ``b_j`` within y.
        offsets: What stands elsewhere in place of the ``b_j``, as in a second gate of the same ``W x``: each changes by
            as much as they do, so that what differs from y by a constant goes on doing so.
        groups: Groups of channels that see inputs of their own.

    Example:
        >>> weight, bias = torch.tensor([[1.0, 0.0]]), torch.tensor([1.0])
        >>> AffineMap("fc", 1, (weight,), (bias,)).rescale(torch.tensor([2.0]), torch.tensor([3.0]))
        >>> weight.tolist(), bias.tolist()
        ([[2.0, 0.0]], [5.0])
    """

    name: str
    channels: int
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...] = ()
    offsets: tuple[Tensor, ...] = ()
    groups: int = 1

    @property
    def can_shift(self) -> bool:
        """Whether a constant can be added to y."""
        return bool(self.biases)

    @torch.no_grad()
    def rescale(self, gain: Tensor, shift: Tensor) -> None:
        """Have the map give ``gain * y + shift`` from now on, both of shape (channels,). Zeros stay zero.

        Without a bias the shift is left out.
        """
        for weight in self.weights:
            weight.mul_(gain.to(weight).view(-1, *[1] * (weight.ndim - 1)))
        for offset in self.offsets:
            offset.add_(((gain - 1) * sum(bias.to(gain) for bias in self.biases)).to(offset))
        for bias in self.biases:
            bias.mul_(gain.to(bias))
        self._shift(shift)

    @torch.no_grad()
    def add(self, change: Tensor, shift: Tensor | None) -> None:
        """Add a change of shape (channels, inputs), the inputs of all weights side by side, and a shift of y."""
        for weight, own in zip(self.weights, torch.split(change, self.columns, dim=1), strict=True):
            weight.add_(own.to(weight).view(weight.shape))
        if shift is not None:
            self._shift(shift)

    @torch.no_grad()
    def zero_but(self, stays: Tensor) -> None:
        """Set the weights to zero that do not stay, of shape (channels, inputs), the inputs of all side by side."""
        for weight, own in zip(self.weights, torch.split(stays, self.columns, dim=1), strict=True):
            weight.mul_(own.to(weight).view(weight.shape))

    @property
    def columns(self) -> list[int]:
        """How many inputs each of the weights has."""
        return [weight[0].numel() for weight in self.weights]

    def matrix(self) -> Tensor:
        """The weights side by side, of shape (channels, inputs); a copy."""
        return torch.cat([weight.reshape(self.channels, -1) for weight in self.weights], dim=1)

    def _shift(self, shift: Tensor) -> None:
        for bias in self.biases[:1]:
            bias.add_(shift.to(bias))
        for offset in self.offsets:
            offset.add_(shift.to(offset))


class Stage(NamedTuple):
    """Maps of a layer that can be solved for together.

    Attributes:
        maps: Their indices.
        dense_inputs: Whether they are given the inputs of the dense network instead of their own: where a layer feeds
            back, its own inputs are of no use until it is about right.
    """

    maps: tuple[int, ...]
    dense_inputs: bool = False
