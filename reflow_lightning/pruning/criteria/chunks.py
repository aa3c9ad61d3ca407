"""Tensors piece by piece, so that none is ever copied whole."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Weights that are looked at together: large enough for full speed, small enough for the processor's cache."""


def flat_chunks(tensor: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """Split a tensor into flat pieces in position order, without copying it whole even if it is not contiguous.

    Example:
        >>> [piece.tolist() for piece in flat_chunks(torch.arange(5), 2)]
        [[0, 1], [2, 3], [4]]
    """
    if tensor.is_contiguous():
        yield from torch.split(tensor.view(-1), size)
    elif tensor.numel():
        rows = max(1, size // math.prod(tensor.shape[1:]))
        for block in torch.split(tensor, rows):
            yield from torch.split(block.reshape(-1), size)
