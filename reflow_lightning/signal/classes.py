"""Class separability: how much of the signal is what tells the classes apart."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from reflow_lightning.running.exact import as_exact
from reflow_lightning.signal.statistic import Statistic, stacked
from reflow_lightning.signal.statistics import merge_moments, merge_positions


def class_sums(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The classes that occur, sorted, and for each its number of samples and their sum.

    Args:
        values: Float64, of shape (N, ...).
        labels: Classes, of shape (N,).

    Returns:
        Classes of shape (K,), and sums of shape (K, ...).

    Example:
        >>> classes, sums = class_sums(torch.tensor([[1.0, 2.0], [1.0, 5.0], [1.0, 3.0]]), torch.tensor([7, 4, 7]))
        >>> classes.tolist(), sums.tolist()
        ([4, 7], [[1.0, 5.0], [2.0, 5.0]])
    """
    classes, index = torch.unique(labels, return_inverse=True)
    return classes, values.new_zeros(len(classes), *values.shape[1:]).index_add_(0, index, values)


class ClassShare(Statistic[Tensor]):
    """Streaming share of the variance between samples that is variance between their classes, in [0, 1].

    With z the activations pooled over positions, each of C channels, mu their mean and mu_k the mean of the n_k samples
    of class k: ``sum_k n_k |mu_k - mu|^2 / sum_i |z_i - mu|^2``, and 0 if all samples are alike. At 1 a sample is known
    by its class; with no class to be seen it is about (classes - 1) / (samples - 1), so that some samples a class are
    needed. It is the trace of the between-class scatter matrix over the trace of the total one (Fukunaga,
    *Introduction to Statistical Pattern Recognition*, 1990, chapter 10). Classes are taken in as they come.

    Args:
        channels: Number of channels.

    Example:
        >>> statistic = ClassShare(channels=1)
        >>> statistic.update(torch.tensor([[0.0], [2.0]]), torch.tensor([3, 8]))
        >>> statistic.update(torch.tensor([[0.0], [2.0]]), torch.tensor([3, 8]))
        >>> statistic.compute().item()
        1.0
    """

    merges = MappingProxyType({"total": stacked(merge_moments), "classes": torch.cat, "sums": torch.cat})
    higher_is_better = True
    total: Tensor
    classes: Tensor
    sums: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(
            channels,
            total=torch.zeros(3, channels, dtype=torch.float64),
            classes=torch.zeros(0, dtype=torch.long),
            sums=torch.zeros(0, 1 + channels, dtype=torch.float64),
        )

    def update(self, values: Tensor, labels: Tensor) -> None:
        """Take in pooled activations of shape (N, C) and the classes of the samples, of shape (N,)."""
        device = self.total.device
        exact = as_exact(values).to(device)
        if len(exact):
            part = merge_positions(exact, torch.zeros_like(exact[:1]), positions=1)
            self.total = merge_moments(torch.stack([self.total, part]))
        numbered = torch.cat([torch.ones_like(exact[:, :1]), exact], dim=1)
        together = torch.cat([self.sums, numbered]), torch.cat([self.classes, labels.to(device)])
        self.classes, self.sums = class_sums(*together)

    def value(self) -> Tensor:
        """The share."""
        _, mean, squares = self.total
        _, sums = class_sums(self.sums, self.classes)  # processes may share classes
        count = sums[:, :1]
        between = (count * (sums[:, 1:] / count - mean).square()).sum()
        return torch.where(squares.sum() == 0, 0.0, between / squares.sum().clamp(min=1e-300))  # NaN stays NaN
