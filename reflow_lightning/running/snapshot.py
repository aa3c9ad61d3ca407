"""A network as it is now, its values and its training flags, to be put back bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reflow_lightning.running.inference import writing
from reflow_lightning.running.lent import kept
from reflow_lightning.running.sharding import reshard
from reflow_lightning.running.shards import local


class Restorable(Protocol):
    """What can be put back."""

    def restore(self) -> None:
        """Put everything back, bit for bit."""


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
        self._values = []
        for module in modules:
            reshard(module)
            self._values.append((module, _copies(named_tensors(module))))

    @classmethod
    def of_buffers(cls, modules: Iterable[nn.Module]) -> Snapshot:
        """The buffers alone."""
        snapshot = cls(())
        snapshot._values = [(module, _copies(_writable(module.named_buffers()))) for module in modules]
        return snapshot

    @classmethod
    def beside(cls, copied: nn.Module, model: nn.Module) -> Snapshot:
        """The values of a model beside a deep copy of it. Nobody may write into the copy: its parameters are shared.

        Example:
            >>> import copy
            >>> model = nn.Linear(2, 2)
            >>> dense = copy.deepcopy(model)
            >>> before = Snapshot.beside(dense, model)
            >>> _ = nn.init.zeros_(model.weight)
            >>> before.restore()
            >>> torch.equal(model.weight, dense.weight)
            True
        """
        snapshot = cls.of_buffers([model])
        copies = dict(copied.named_parameters())
        for name, parameter in _writable(model.named_parameters()):
            other = kept(copies.get(name, parameter))
            is_shared = local(other).data_ptr() == local(parameter.detach()).data_ptr()  # what can't be copied
            snapshot._values[0][1][name] = other.clone() if is_shared else other
        return snapshot

    def restore(self) -> None:
        """Put every value back, bit for bit."""
        for module, values in self._values:
            reshard(module)  # a forward pass may have left its root whole
            write(module, values)


class TrainingFlags:
    """Which of some modules are in train mode.

    Example:
        >>> layer = nn.Dropout()
        >>> before = TrainingFlags([layer])
        >>> _ = layer.eval()
        >>> before.restore()
        >>> layer.training
        True
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._flags = [(module, module.training) for module in modules]

    def restore(self) -> None:
        """Put every flag back, past ``train()``: a model may override that to freeze its layers."""
        for module, flag in self._flags:
            module.training = flag


class Snapshots:
    """Several, the last of them put back first."""

    def __init__(self, snapshots: Iterable[Restorable | None]) -> None:
        self._snapshots = [snapshot for snapshot in snapshots if snapshot is not None]

    def restore(self) -> None:
        """Put everything back, bit for bit."""
        for snapshot in reversed(self._snapshots):
            snapshot.restore()


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a module that have values and can be written, by name."""
    return _writable((*module.named_parameters(), *module.named_buffers()))


@torch.no_grad()
def write(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write values into the parameters and buffers of a module; devices and types may differ.

    Args:
        module: The module.
        values: By name.
    """
    with writing(module):
        for name, value in values.items():
            parent, _, last = name.rpartition(".")
            getattr(module.get_submodule(parent), last).copy_(value)


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named}


def can_be_written(tensor: Tensor) -> bool:
    """Whether a tensor has values of its own; elements of an expanded tensor share memory."""
    if is_lazy(tensor) or tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
        return False
    return not any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _writable(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in named if can_be_written(tensor))
