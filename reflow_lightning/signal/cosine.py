"""Centred cosine: whether two networks answer the same samples in the same channels."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from reflow_lightning.running.exact import as_exact
from reflow_lightning.signal.statistic import Statistic, stacked
from reflow_lightning.signal.statistics import merge_moments


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


class CenteredCosine(Statistic[Tensor]):
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

    merges = MappingProxyType({"state": stacked(merge_comoments)})
    higher_is_better = True
    state: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, state=torch.zeros(6, channels, dtype=torch.float64))

    def update(self, values: Tensor, reference: Tensor) -> None:
        """Take in the pooled activations of both networks, of shape (N, C)."""
        a, b = as_exact(values), as_exact(reference)
        count = torch.full((a.shape[1],), float(a.shape[0]), dtype=torch.float64, device=a.device)
        mean_a, mean_b = a.mean(0), b.mean(0)
        a, b = a - mean_a, b - mean_b
        part = torch.stack([count, mean_a, mean_b, a.square().sum(0), b.square().sum(0), (a * b).sum(0)])
        self.state = merge_comoments(torch.stack([self.state, part.to(self.state.device)]))

    def value(self) -> Tensor:
        """The cosine, in [-1, 1]."""
        squares_a, squares_b, products = self.state[3:].sum(1)
        scale = (squares_a * squares_b).sqrt()
        return torch.where(scale == 0, 0.0, products / scale.clamp(min=1e-300))  # NaN stays NaN
