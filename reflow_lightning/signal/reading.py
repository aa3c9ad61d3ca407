"""What one call of a layer gives all statistics, in one pass over its output."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reflow_lightning.signal.neurons import merge_position_signs, position_signs
from reflow_lightning.signal.statistics import merge_positions, pieces, position_moments


class Reading(NamedTuple):
    """The `moments` (3, C) and the `signs` (2, C) of activations, and their means over positions (N, C)."""

    moments: Tensor
    signs: Tensor
    pooled: Tensor


def read(values: Tensor) -> Reading:
    """Read activations once, so that each piece is still in the processor's cache for the next statistic.

    Args:
        values: Shape (N, C, positions), any floating type.

    Returns:
        Moments and signs in float64; means over positions in float32, or float64 if the activations are.

    Example:
        >>> found = read(torch.tensor([[[1.0, 3.0]], [[-2.0, -2.0]]]))
        >>> found.moments.flatten().tolist(), found.signs.flatten().tolist(), found.pooled.flatten().tolist()
        ([4.0, 0.0, 18.0], [2.0, 2.0], [2.0, -2.0])
    """
    if not len(values):
        nothing = torch.zeros(5, values.shape[1], dtype=torch.float64)
        return Reading(nothing[:3], nothing[3:], torch.zeros(0, values.shape[1]))
    rows = [(*position_moments(piece), *position_signs(piece)) for piece in pieces(values)]
    mean, squares, difference, total = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return Reading(
        merge_positions(mean, squares, values.shape[2]),
        merge_position_signs(difference, total),
        mean.to(torch.promote_types(values.dtype, torch.float32)),
    )
