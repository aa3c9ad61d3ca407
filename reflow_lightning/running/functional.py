"""Calls of a module with other values in the place of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def called_with(module: nn.Module, values: Mapping[str, Tensor], *args: Any) -> Any:
    """Call a module with other values of some parameters, under all names that they have.

    `torch.func.functional_call` finds the other names of a parameter itself. But where one *module* has two names, it
    swaps the parameter twice, and leaves the other value in its place. So it gets each place of a parameter once.

    Args:
        module: The module.
        values: By parameter name.
        *args: What it is called with.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> twice = nn.Sequential(layer, nn.Flatten(0), nn.Unflatten(0, (1, 1)), nn.Linear(1, 2), layer)
        >>> weight = layer.weight
        >>> _ = called_with(twice, {"0.weight": torch.ones(1, 2)}, torch.ones(1, 2))
        >>> layer.weight is weight
        True
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    new = {id(named[name]): value for name, value in values.items()}
    places = {
        f"{path}.{name}" if path else name: new[id(parameter)]
        for path, owner in module.named_modules()
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False)
        if id(parameter) in new
    }
    return functional_call(module, places, args, tie_weights=False)
