"""The values of a network as they are now, to be put back bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class Restorable(Protocol):
    """What can be put back."""

    def restore(self) -> None:
        """Put every value back, bit for bit."""


class Snapshot:
    """Parameters and buffers of some modules; found again by name, so that a moved model is restored too.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before, weight = Snapshot([layer]), layer.weight.detach().clone()
        >>> _ = nn.init.zeros_(layer.weight)
        >>> before.restore()
        >>> torch.equal(layer.weight, weight)
        True
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._values = [
            (module, name, tensor.detach().clone()) for module in modules for name, tensor in named_tensors(module)
        ]

    @classmethod
    def of_buffers(cls, modules: Iterable[nn.Module]) -> Snapshot:
        """The buffers alone."""
        snapshot = cls(())
        snapshot._values = [(module, name, b.clone()) for module in modules for name, b in module.named_buffers()]
        return snapshot

    @torch.no_grad()
    def restore(self) -> None:
        """Put every value back, bit for bit."""
        for module, name, value in self._values:
            parent, _, last = name.rpartition(".")
            getattr(module.get_submodule(parent), last).copy_(value)


class Snapshots:
    """Several, the last of them put back first."""

    def __init__(self, snapshots: Iterable[Restorable | None]) -> None:
        self._snapshots = [snapshot for snapshot in snapshots if snapshot is not None]

    def restore(self) -> None:
        """Put every value back, bit for bit."""
        for snapshot in reversed(self._snapshots):
            snapshot.restore()


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a module that have values and can be written, by name."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            continue
        repeated = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
        if not repeated:  # it can be written
            yield name, tensor
