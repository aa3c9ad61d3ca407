"""Private names of torch about what a module holds: its parameters, modules and hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def remember_structure(module: nn.Module) -> Callable[[], None]:
    """A function that gives a module back the class, parameters, modules and hooks before its calls that it has now.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> put_back = remember_structure(layer)
        >>> del layer.bias
        >>> put_back()
        >>> layer.bias.shape
        torch.Size([2])
    """
    kind, held = type(module), (module._parameters, module._modules, module._forward_pre_hooks)
    kept: list[tuple[Any, dict[Any, Any]]] = [(each, dict(each)) for each in held]

    def put_back() -> None:
        module.__class__ = kind
        for each, items in kept:
            each.clear()
            each.update(items)

    return put_back
