"""The scores of one tensor, produced piece by piece: nothing as large as the model is ever held."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reflow_lightning.pruning.criteria import Criterion, Magnitude

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


def _bits(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype).view(torch.int32 if dtype == torch.float32 else torch.int64)


def sort_keys(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Integers that order like the scores.

    Args:
        scores: Floating-point scores of any type that ``dtype`` holds exactly.
        dtype: ``torch.float32`` or ``torch.float64``.

    Example:
        >>> keys = sort_keys(torch.tensor([-1.0, -0.0, 0.0, 2.0]), torch.float32)
        >>> bool(keys[0] < keys[1] == keys[2] < keys[3])
        True
    """
    bits = _bits(scores + 0.0, dtype)  # -0.0 + 0.0 is 0.0
    largest = torch.iinfo(bits.dtype).max
    return bits ^ ((bits >> (bits.element_size() * 8 - 1)) & largest)  # a negative float grows as its bits shrink


@dataclass(frozen=True)
class Scores:
    """The scores of one tensor, produced piece by piece as often as they are needed, never held for all tensors.

    Attributes:
        name: Name of the parameter.
        weight: Its values.
        criterion: Maps them to scores.
        last: Bool tensor of the weight's shape, True where a weight is to be ranked below all others; ``None`` ranks
            zero weights there, so that what is already pruned stays pruned.
    """

    name: str
    weight: Tensor
    criterion: Criterion
    last: Tensor | None = None

    def tensor(self) -> Tensor:
        """All scores at once, of the weight's shape.

        Raises:
            ValueError: If the criterion returns another shape, or a score that is not finite.
        """
        scores = self.criterion(self.name, self.weight)
        if scores.shape != self.weight.shape or not scores.is_floating_point():
            raise ValueError(
                f"criterion {self.criterion} gave {tuple(scores.shape)} {scores.dtype} for '{self.name}': "
                f"it must return one floating-point score a weight, shape {tuple(self.weight.shape)}"
            )
        if not torch.isfinite(scores).all():
            raise ValueError(f"criterion {self.criterion} gave NaN or infinite scores for '{self.name}'")
        return scores

    def keys(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Flat pieces, in position order, of integers that order like the scores in ``dtype`` (see `sort_keys`)."""
        if isinstance(self.criterion, Magnitude):  # without a sign the bits order as they are, which saves three passes
            pieces = (_bits(self.criterion(self.name, piece), dtype) for piece in flat_chunks(self.weight))
            if self.last is None:  # a zero weight has the lowest magnitude already
                yield from pieces
                return
        else:
            pieces = (sort_keys(piece, dtype) for piece in flat_chunks(self.tensor()))
        last = flat_chunks(self.weight == 0 if self.last is None else self.last)
        for piece, mark in zip(pieces, last, strict=True):
            yield piece.masked_fill(mark, torch.iinfo(piece.dtype).min)
