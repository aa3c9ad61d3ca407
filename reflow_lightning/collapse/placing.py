"""What is left of a part of a network, put in its place; and back, if the network does something else then."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.collapse.edits import owner
from reflow_lightning.collapse.simplifying import Simplified
from reflow_lightning.running.compat.torch import own_buffers, own_parameters


class TiedError(ValueError):
    """A parameter that would change belongs to another part of the network as well."""


class Placement:
    """Changes of a network that can be undone.

    Args:
        network: The network, which is changed.

    Attributes:
        network: The same, or what was put in its place.

    Example:
        >>> network = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
        >>> placement = Placement(network)
        >>> placement.put(network[0], nn.Identity())
        >>> placement.undo()
        >>> type(network[0]).__name__
        'ReLU'
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._undone: list[Callable[[], Any]] = []

    def put(self, old: nn.Module, new: nn.Module) -> None:
        """Put a module wherever the network has another one.

        Raises:
            TiedError: If another module holds a parameter of the old one, which the new one lacks.
        """
        self._check_ties(old, new)
        if old is self.network:
            self.network = new
            self._undone.append(partial(setattr, self, "network", old))
            return
        for name in [n for n, m in self.network.named_modules(remove_duplicate=False) if m is old]:
            self.network.set_submodule(name, new)
            self._undone.append(partial(self.network.set_submodule, name, old))

    def put_value(self, holder: nn.Module, name: str, value: Tensor) -> None:
        """Give a module another parameter or buffer by a name that it has.

        Raises:
            TiedError: If another module holds the old one.
        """
        old = getattr(holder, name)
        if any(old is tensor for module in self.network.modules() if module is not holder for tensor in _held(module)):
            raise TiedError(f"{name} belongs to another part of the network too")
        setattr(holder, name, value)
        self._undone.append(partial(setattr, holder, name, old))

    def undo(self) -> None:
        """Put everything back."""
        while self._undone:
            self._undone.pop()()

    def _check_ties(self, old: nn.Module, new: nn.Module) -> None:
        within, kept = set(old.modules()), {id(p) for p in new.parameters()}
        changing = {id(p): name for name, p in old.named_parameters() if id(p) not in kept}
        for name, module in self.network.named_modules():
            if module in within:
                continue
            for tensor in _held(module):
                if id(tensor) in changing:
                    raise TiedError(f"{changing[id(tensor)]} is a parameter of {name or 'the network'} too")


def put_layers(placement: Placement, module: nn.Module, simplified: Simplified) -> nn.Module:
    """Give a module the layers and values that are left of it. It keeps its class, its forward pass and all names.

    What is gone becomes the identity.

    Raises:
        TiedError: If another part of the network holds a parameter of a layer that changes.
    """
    for target in sorted(simplified.used):
        old, new = _attribute(module, target), _attribute(simplified.graph, target)
        if isinstance(old, nn.Module):
            new = new if isinstance(new, nn.Module) else nn.Identity()
            if not _is_same(old, new):
                placement.put(old, new)
        elif isinstance(old, Tensor) and isinstance(new, Tensor) and not _equal(old, new):
            placement.put_value(*owner(module, target), new)
    return module


def put_graph(placement: Placement, module: nn.Module, simplified: Simplified) -> nn.Module:
    """Put the graph in the place of the module.

    Raises:
        TiedError: If another part of the network holds a parameter of the module.
    """
    placement.put(module, simplified.graph)
    return simplified.graph


def _held(module: nn.Module) -> list[Tensor]:
    return [t for t in (*own_parameters(module).values(), *own_buffers(module).values()) if t is not None]


def _is_same(old: nn.Module, new: nn.Module) -> bool:
    before, after = old.state_dict(), new.state_dict()
    return type(old) is type(new) and before.keys() == after.keys() and all(_equal(before[n], after[n]) for n in before)


def _equal(old: Any, new: Any) -> bool:
    if not isinstance(old, Tensor) or not isinstance(new, Tensor):
        return old is new or bool(old == new)
    return old.shape == new.shape and torch.equal(old.nan_to_num(), new.nan_to_num())


def _attribute(module: nn.Module, target: str) -> Any:
    """What a module holds by a dotted name, or ``None``, as for a constant that only its graph has."""
    path, _, name = target.rpartition(".")
    holder = dict(module.named_modules(remove_duplicate=False)).get(path)
    return getattr(holder, name, None)
