"""Importance criteria: weight -> score. The lowest scores are pruned."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from reflow_lightning.running.forward import Forward

CHUNK = 1 << 18
"""Weights that are looked at together: large enough for full speed, small enough for the processor's cache."""


class Criterion(Protocol):
    """Maps a named weight to scores of the same shape."""

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""


@runtime_checkable
class StreamedCriterion(Protocol):
    """A criterion that can also give its scores piece by piece, the same ones every time, to save memory."""

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""

    def pieces(self, name: str, weight: Tensor, /, start: int = 0) -> Iterator[Tensor]:
        """The same scores as flat pieces, split like `flat_chunks`.

        Of a parameter that is spread over processes, ``weight`` is the part that is held here, and ``start`` the
        position of its first element in the whole.
        """


@runtime_checkable
class DataCriterion(Protocol):
    """A criterion that needs data: what it finds on them is an ordinary `Criterion`."""

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Criterion:
        """Read the batches once and leave the model as it is.

        Where processes run together, all call it, each with its own batches or none, and all get the same scores.

        Args:
            model: The model, on the device of the batches.
            weights: The weights to be scored, by parameter name; they share the model's memory.
            batches: Batches.
            forward: Runs the model on one.
        """


@runtime_checkable
class Compensating(Protocol):
    """A criterion that also knows how the weights that stay make up for those that go."""

    def compensate(self, masks: Mapping[str, Tensor], /) -> Mapping[str, Tensor]:
        """What is to be added to the weights before the masks are applied, by name; zero where a weight goes."""


@dataclass(frozen=True)
class Estimated:
    """Scores that were found on data.

    Attributes:
        origin: The criterion that found them, for messages.
        scores: Scores by parameter name.

    Example:
        >>> Estimated("by hand", {"w": torch.ones(2)})("w", torch.zeros(2))
        tensor([1., 1.])
    """

    origin: object
    scores: Mapping[str, Tensor] = field(repr=False)

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """The scores of a weight.

        Raises:
            ValueError: If there are none for that name.
        """
        if name not in self.scores:
            raise ValueError(f"{self} holds no scores for '{name}': estimate them with the same include and exclude")
        return self.scores[name].to(weight.device)


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


@dataclass(frozen=True)
class Magnitude:
    """The absolute value of each weight.

    Example:
        >>> Magnitude()("fc.weight", torch.tensor([-2.0, 1.0]))
        tensor([2., 1.])
    """

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""
        return weight.abs()

    def pieces(self, name: str, weight: Tensor, /, start: int = 0) -> Iterator[Tensor]:
        """The same scores as flat pieces."""
        return (self(name, piece) for piece in flat_chunks(weight))


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
