"""Chance, to compare a criterion with."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reflow_lightning.pruning.criteria.chunks import CHUNK, flat_chunks
from reflow_lightning.pruning.criteria.registry import register_criterion


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
        return torch.cat([piece.view(-1) for piece in self.pieces(name, weight.contiguous())]).view(weight.shape)

    def pieces(self, name: str, weight: Tensor, /, start: int = 0) -> Iterator[Tensor]:
        """The same scores as flat pieces."""
        # Type and device are given, so that no default of the process changes the draw.
        generator = torch.Generator("cpu").manual_seed(zlib.crc32(f"{self.seed}:{name}".encode()))
        draw = partial(torch.rand, generator=generator, dtype=torch.float32, device="cpu")
        for skipped in range(0, start, CHUNK):  # what belongs to other processes is drawn too, and forgotten
            draw(min(CHUNK, start - skipped))
        for piece in flat_chunks(weight):
            yield draw(piece.shape).to(weight.device)


register_criterion("random", Random())
