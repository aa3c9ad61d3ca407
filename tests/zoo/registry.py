"""The table of networks: each has one name, one way to be built, and a batch that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]

ROWS: Shape = (8,)
SEQUENCES: Shape = (4, 8)
IMAGES: Shape = (3, 6, 6)


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Args:
        name: By which tests ask for it, and which their ids show.
        build: Makes the network. It draws from torch's random state, always in the same order.
        shapes: The shape of one sample, for each input of the network.
        tags: What the network is good for; `zoo` lists them.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[Shape, ...]
    tags: frozenset[str]

    def batch(self, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """One tensor (samples, *shape) for each input."""
        return tuple(torch.randn(samples, *shape, generator=generator) for shape in self.shapes)


_ENTRIES: dict[str, Entry] = {}


def register(name: str, build: Callable[[], nn.Module], *shapes: Shape, tags: tuple[str, ...]) -> None:
    """Give a network its name, which no other one may have."""
    if name in _ENTRIES:
        raise ValueError(f"the zoo has a network {name!r} already: take it, or give the new one another name")
    _ENTRIES[name] = Entry(name, build, shapes, frozenset(tags))


def network(name: str) -> Entry:
    """The entry of that name."""
    return _ENTRIES[name]


def networks(*tags: str) -> list[str]:
    """The names of all networks that have all these tags, to parametrise a test with."""
    return [name for name, entry in _ENTRIES.items() if entry.tags.issuperset(tags)]
