"""Private names of torch about what a module holds: its parameters, modules and hooks."""

from __future__ import annotations

from collections.abc import Callable

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
    kind = type(module)
    held = {name: getattr(module, name) for name in ("_parameters", "_modules", "_forward_pre_hooks")}
    kept = {name: dict(items) for name, items in held.items()}

    def put_back() -> None:
        module.__class__ = kind
        for name, items in held.items():
            items.clear()
            items.update(kept[name])
            vars(module)[name] = items  # `nn.Sequential` takes another one when a module is deleted

    return put_back
