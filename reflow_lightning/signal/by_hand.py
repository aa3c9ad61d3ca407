"""Rectifiers that are modules of other libraries, such as the GELU of GPT-2, told by what they do to numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.running.compat.torch import Unwatched, plain_attributes
from reflow_lightning.running.copying import data_in
from reflow_lightning.running.isolation import isolated_rng

NEAR = 0.03
"""Two functions that differ by no more are of one kind: approximations of GELU do by 0.0203, SiLU and GELU by 0.2."""

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "hardswish": functional.hardswish,
    "elu": functional.elu,
}


def rectifiers_by_hand(model: nn.Module) -> dict[str, str]:
    """The modules that act as a rectifier, though they are none of torch's, and the kind of each, by name.

    They may compute it by hand, so that no function of torch tells. A module without parameters, buffers and modules
    within is tried on a grid of numbers. It is a rectifier if it gives the same for the grid in another order and
    layout, and nearly what one of torch's rectifiers gives. A copy of it is tried, so that it notices nothing.

    Example:
        >>> class QuickGELU(nn.Module):
        ...     def forward(self, x):
        ...         return x * torch.sigmoid(1.702 * x)
        >>> rectifiers_by_hand(nn.Sequential(nn.Linear(2, 2), QuickGELU(), nn.GELU()))
        {'1': 'gelu'}
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if not type(module).__module__.startswith("torch.nn.") and not _holds_anything(module):
            with suppress(Exception), Unwatched():  # a forward of the user's may raise anything on a vector
                if (kind := _kind_of(module)) is not None:
                    found[name] = kind
    return found


def _holds_anything(module: nn.Module) -> bool:
    """Whether it has parameters, buffers or modules, or refers to networks or data, which a copy would copy."""
    held = (module.parameters(), module.buffers(), module.children())
    if any(next(iter(group), None) is not None for group in held):
        return True
    named = plain_attributes(module).values()
    inner = [part for value in named for part in (value if isinstance(value, (list, tuple, set)) else [value])]
    return bool(data_in(module)) or any(isinstance(part, (nn.Module, Tensor)) for part in inner)


@torch.no_grad()
def _kind_of(module: nn.Module) -> str | None:
    grid, expected = _grid()
    tried = copy.deepcopy(module)
    tried.training = False
    with isolated_rng():
        values = tried.forward(grid.clone())
        turned = tried.forward(grid.flip(0).clone().view(1, 5, -1))
    if not isinstance(values, Tensor) or values.shape != grid.shape or turned.shape != (1, 5, grid.numel() // 5):
        return None
    if not torch.allclose(turned.flatten().flip(0), values, atol=1e-5):
        return None
    distances = {kind: float((values - other).abs().max()) for kind, other in expected.items()}
    nearest = min(distances, key=lambda kind: distances[kind])
    return nearest if distances[nearest] <= NEAR else None


@cache
def _grid() -> tuple[Tensor, dict[str, Tensor]]:
    """Numbers from -10 to 10, and what each of torch's rectifiers gives for them."""
    grid = torch.linspace(-10, 10, 405)
    return grid, {kind: function(grid) for kind, function in _FUNCTIONS.items()}
