"""The absolute value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from reflow_lightning.pruning.criteria.chunks import flat_chunks
from reflow_lightning.pruning.criteria.registry import register_criterion


@dataclass(frozen=True)
class Magnitude:
    """The absolute value of each weight.

    Example:
        >>> import torch
        >>> Magnitude()("fc.weight", torch.tensor([-2.0, 1.0]))
        tensor([2., 1.])
    """

    @property
    def unsigned(self) -> bool:
        """Whether no score is below zero, see `is_unsigned`; a subclass may score otherwise."""
        return (type(self).__call__, type(self).pieces) == (Magnitude.__call__, Magnitude.pieces)

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""
        return weight.abs()

    def pieces(self, name: str, weight: Tensor, /, start: int = 0) -> Iterator[Tensor]:
        """The same scores as flat pieces."""
        return (self(name, piece) for piece in flat_chunks(weight))


register_criterion("magnitude", Magnitude())
