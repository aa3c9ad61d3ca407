"""What one call of a layer gives all statistics, in one pass over its output."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reflow_lightning.running.exact import as_exact, exact
from reflow_lightning.signal.neurons import merge_position_signs, position_signs
from reflow_lightning.signal.statistics import merge_moments, merge_positions, pieces, position_moments

_FEW = 16
"""So few positions are summed faster across samples than each sample's by themselves."""

_LARGE = 1 << 14
"""From so many values on, the rounding of float32 averages out."""

_CONDITION = 16
"""Sums of squares in float32 tell variances of at least a 16th of the mean square, to about 5e-6."""

_TINY = 1e-30
"""Mean squares below this are near the smallest number of float32."""


class Reading(NamedTuple):
    """What was read of activations: all, or the moments alone.

    Attributes:
        moments: The `moments`, (3, C).
        signs: The `signs`, (2, C).
        pooled: The means over positions, (N, C).
    """

    moments: Tensor
    signs: Tensor | None
    pooled: Tensor | None


def read_valid(values: Tensor, valid: Tensor, *, signs: bool = True, pooled: bool = True) -> Reading:
    """The same of those positions alone that are no padding.

    Args:
        values: Shape (N, C, positions).
        valid: Which positions hold data, of shape (N, positions).
        signs: See `read`.
        pooled: See `read`.

    Example:
        >>> found = read_valid(torch.tensor([[[1.0, 3.0]], [[-2.0, 9.0]]]), torch.tensor([[True, True], [True, False]]))
        >>> found.moments[0].tolist(), found.pooled.flatten().tolist()
        ([3.0], [2.0, -2.0])
    """
    valid = valid.to(values.device)
    rows = read(values.movedim(1, -1)[valid][..., None], signs=signs, pooled=False)
    if not pooled:
        return rows
    kept = values.to(torch.promote_types(values.dtype, torch.float32)).masked_fill(~valid[:, None], 0.0)
    return rows._replace(pooled=kept.sum(-1) / valid.sum(-1, keepdim=True).clamp(min=1))


def read(values: Tensor, *, signs: bool = True, pooled: bool = True) -> Reading:
    """Read activations once, so that each piece is still in the processor's cache for the next statistic.

    Args:
        values: Shape (N, C, positions), any floating type.
        signs: Whether the signs are wanted.
        pooled: Whether the means over positions are wanted.

    Returns:
        Moments and signs in float64; means over positions in float32, or float64 if the activations are. The moments of
        many values of float32 or less are precise to about 5e-6, else they are exact.

    Example:
        >>> found = read(torch.tensor([[[1.0, 3.0]], [[-2.0, -2.0]]]))
        >>> found.moments.flatten().tolist(), found.signs.flatten().tolist(), found.pooled.flatten().tolist()
        ([4.0, 0.0, 18.0], [2.0, 2.0], [2.0, -2.0])
    """
    samples, channels, positions = values.shape
    if not samples:
        nothing = torch.zeros(5, channels, dtype=torch.float64)
        return Reading(nothing[:3], nothing[3:], torch.zeros(0, channels))
    array, dim = _layout(values)
    in_type = torch.promote_types(values.dtype, torch.float32)
    large = values.numel() >= _LARGE and in_type == torch.float32
    counts = _signs(array, dim, channels) if signs else None
    if not large:
        return Reading(_exact(values), counts, values.mean(-1, dtype=in_type) if pooled else None)
    sums, moments = _summed(values)
    if not pooled:
        return Reading(moments, counts, None)
    return Reading(moments, counts, sums / positions if dim == -1 else values.mean(-1, dtype=in_type))


def _layout(values: Tensor) -> tuple[Tensor, int]:
    """Activations (N, C, positions) in the shape in which they are summed fast, and the dimension to sum over.

    Either as they are, over positions, or as a matrix, over its rows. Its columns are the channels, each with as many
    columns, one after the other, as there are positions that are kept apart.
    """
    samples, channels, positions = values.shape
    if positions > 1 and values.stride(1) == 1:  # channels stand last in memory
        return values.transpose(1, 2).reshape(-1, channels), 0
    return (values.reshape(samples, -1), 0) if positions < _FEW else (values, -1)


def _by_channel(parts: list[Tensor], dim: int, channels: int) -> Tensor:
    """What was found of each piece, (kinds, ...) each, as (kinds, parts, C)."""
    if dim == -1:
        return torch.cat(parts, dim=1)
    apart = torch.stack(parts, dim=1)
    return apart.reshape(*apart.shape[:2], channels, -1).movedim(3, 2).flatten(1, 2)


def _signs(array: Tensor, dim: int, channels: int) -> Tensor:
    parts = [torch.stack(position_signs(piece, dim)) for piece in pieces(array)]
    return merge_position_signs(*_by_channel(parts, dim, channels))


def _summed(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the values (parts, C), and the `moments`, from sums in float32 that are added up in float64.

    Of a channel whose mean is large beside its deviation, or that is all but zero, the moments are taken exactly.
    """
    array, dim = _layout(values)
    parts = []
    for piece in pieces(array):
        piece = piece.float()
        squares = torch.linalg.vector_norm(piece, dim=dim).square() if dim else (piece * piece).sum(dim)
        parts.append(torch.stack([piece.sum(dim), squares]))
    sums = _by_channel(parts, dim, values.shape[1])
    total, total_squares = as_exact(sums).sum(1)
    count = values.shape[0] * values.shape[2]
    squares = total_squares - total.square() / count
    moments = torch.stack([torch.full_like(total, count), total / count, squares])
    precise = (total_squares <= _CONDITION * squares) & (total_squares > count * _TINY) & squares.isfinite()
    if not precise.all():
        rest = (~precise & (total_squares != 0)).nonzero().flatten().tolist()
        moments[:, rest] = _exact(values[:, rest]).to(moments.device)
    return sums[0], moments


def _exact(values: Tensor) -> Tensor:
    """The `moments` in float64."""
    array, dim = _layout(values)
    if dim == -1:
        rows = [position_moments(piece) for piece in pieces(array)]
        mean, squares = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return merge_positions(mean, squares, values.shape[2])
    parts = []
    for piece in pieces(array):
        copy = exact(piece)
        mean = copy.mean(0)
        parts.append(torch.stack([torch.full_like(mean, len(copy)), mean, copy.sub_(mean).square_().sum(0)]))
    if len(parts) == 1 and len(values[0]) == parts[0].shape[1]:
        return parts[0]
    return merge_moments(_by_channel(parts, 0, values.shape[1]).movedim(0, 1))
