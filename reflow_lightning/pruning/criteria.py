"""Importance criteria: weight -> score. The lowest scores are pruned."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Criterion(Protocol):
    """Maps a named weight to scores of the same shape."""

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""


@dataclass(frozen=True)
class Magnitude:
    """The absolute value of each weight. It needs no other weight, so a large tensor may be scored in pieces.

    Example:
        >>> Magnitude()("fc.weight", torch.tensor([-2.0, 1.0]))
        tensor([2., 1.])
    """

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""
        return weight.abs()


@dataclass(frozen=True)
class Random:
    """A uniform random score that depends on the seed and the parameter's name alone, so ranks and runs agree.

    Example:
        >>> a = Random(seed=1)("fc.weight", torch.ones(4))
        >>> torch.equal(a, Random(seed=1)("fc.weight", torch.ones(4)))
        True
    """

    seed: int = 0

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}:{name}".encode()))
        return torch.rand(weight.shape, generator=generator).to(weight.device)


CRITERIA: dict[str, Criterion] = {"magnitude": Magnitude(), "random": Random()}


def resolve_criterion(criterion: str | Criterion) -> Criterion:
    """Look a criterion up by name; a callable is returned as it is.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> resolve_criterion("magnitude")
        Magnitude()
    """
    if callable(criterion):
        return criterion
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r} is unknown: use one of {sorted(CRITERIA)} or a callable")
    return CRITERIA[criterion]
