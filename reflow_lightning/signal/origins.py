"""Which weighted layer made each channel of an activation, and what becomes of that when its layout changes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple


class Piece(NamedTuple):
    """Consecutive channels that one layer made.

    Attributes:
        layer: Its name; none if it is unknown, as for the input of the network.
        depth: The weighted layers on the longest path to it; 0 if it is unknown.
        size: Number of channels.
    """

    layer: str | None
    depth: int
    size: int


class Origin(NamedTuple):
    """Where an activation comes from.

    Attributes:
        pieces: Those of its channels, one after the other.
        dim: The channel dimension.
        shape: That of the activation.

    Example:
        >>> origin = Origin((Piece("conv1", 1, 8), Piece("conv2", 2, 4)), 1, (2, 12, 5, 5))
        >>> [(piece.layer, piece.size) for piece in origin.moved((2, 300)).pieces]  # flattened
        [('conv1', 200), ('conv2', 100)]
        >>> [(piece.layer, piece.size) for piece in origin.moved((2, 6, 5, 5)).pieces]  # a slice
        [('conv2', 6)]
    """

    pieces: tuple[Piece, ...]
    dim: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, layer: str, depth: int, dim: int, shape: tuple[int, ...]) -> Origin:
        """The origin of what one layer made."""
        return cls((Piece(layer, depth, 0),), dim, shape).mixed(dim, shape)

    @property
    def deepest(self) -> Piece:
        """The piece with the longest path; the first on ties."""
        return max(self.pieces, key=lambda piece: piece.depth)

    def moved(self, shape: tuple[int, ...]) -> Origin:
        """The origin after a function that keeps the order of dimensions; see `moved_dim`.

        A reshape may turn each channel into several consecutive ones. Where the number of channels changes in another
        way, as in a slice, all of them are the deepest layer's.
        """
        if shape == self.shape:
            return self
        dim = moved_dim(self.dim, self.shape, shape)
        size, channels = _size(dim, shape), _size(self.dim, self.shape)
        times = 1
        if _reshaped(self.shape, shape):
            whole = math.prod(self.shape[: self.dim]) == math.prod(shape[:dim])
            times = size // max(1, channels) if whole else 0
        if times * channels != size:
            return self.mixed(dim, shape)
        return Origin(tuple(piece._replace(size=times * piece.size) for piece in self.pieces), dim, shape)

    def mixed(self, dim: int, shape: tuple[int, ...]) -> Origin:
        """The origin of channels that may each come from any of these: all count as the deepest layer's."""
        return Origin((self.deepest._replace(size=_size(dim, shape)),), dim, shape)


def joined(operands: Iterable[tuple[tuple[int, ...], Origin | None]], dim: int, shape: tuple[int, ...]) -> Origin:
    """The origin of a concatenation of channels; neighbours of one layer become one piece.

    Args:
        operands: Shape of each, and its origin if it is known. One with other channels is its deepest layer's.
        dim: The dimension along which they are concatenated.
        shape: That of the result.

    Example:
        >>> a = Origin.of("conv1", depth=1, dim=1, shape=(2, 8))
        >>> joined([((2, 8), a), ((2, 8), a), ((2, 3), None)], 1, (2, 19)).pieces
        (Piece(layer='conv1', depth=1, size=16), Piece(layer=None, depth=0, size=3))
    """
    pieces: list[Piece] = []
    for operand, origin in operands:
        if origin is None:
            pieces.append(Piece(None, 0, operand[dim]))
        else:
            pieces.extend((origin if origin.dim == dim else origin.mixed(dim, operand)).pieces)
    neighbours = [list(run) for _, run in groupby(pieces, key=lambda piece: piece.layer)]
    merged = (Piece(run[0].layer, max(p.depth for p in run), sum(p.size for p in run)) for run in neighbours)
    return Origin(tuple(merged), dim, shape)


def moved_dim(dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Where a dimension is after a function that keeps the order of dimensions: a reshape, pooling, indexing.

    Args:
        dim: The dimension.
        before: Shape of the input.
        after: Shape of the output.

    Example:
        >>> moved_dim(1, (2, 8, 3, 3), (2, 72)), moved_dim(2, (2, 5, 8), (10, 8)), moved_dim(2, (2, 5, 8), (2, 8))
        (1, 1, 1)
    """
    if _reshaped(before, after):
        start = math.prod(before[:dim])
        return next((i for i in range(len(after)) if math.prod(after[: i + 1]) > start), max(0, len(after) - 1))
    if len(before) == len(after):
        return dim
    if not before:  # a number, such as a mean, that is spread over a tensor
        return max(0, len(after) - 1)
    places = (dim, dim - len(before) + len(after))  # counted from the first dimension, or from the last
    return next((i for i in places if 0 <= i < len(after) and after[i] == before[dim]), max(0, len(after) - 1))


def _reshaped(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return math.prod(before) == math.prod(after) and before != after


def _size(dim: int, shape: tuple[int, ...]) -> int:
    return shape[dim] if shape else 1
