"""Sums of columns, so that matrices are pruned by whole columns, such as the rank components of a factored one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ColumnSum:
    """Every weight scores the place of its column among all columns by their sums of absolute values.

    So columns stay or go as a whole, even where sums are equal: the first of them then goes first.

    Together with `KeptColumns` it drops rank components, as *Is Complexity Required for Neural Network Pruning?*
    (arXiv 2209.14624) does with FastGRNN.

    Example:
        >>> ColumnSum()("weight_ih", torch.tensor([[1.0, -3.0], [1.0, 0.0]]))
        tensor([[0., 1.],
                [0., 1.]])
    """

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``.

        Raises:
            ValueError: If it is no matrix.
        """
        if weight.ndim != 2:
            raise ValueError(f"'{name}' {tuple(weight.shape)} is no matrix: only matrices are pruned by columns")
        places = weight.abs().sum(0, dtype=torch.float64).argsort(stable=True).argsort()
        return places.float().expand_as(weight).contiguous()
