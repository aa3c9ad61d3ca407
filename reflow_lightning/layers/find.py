"""Find the layers of a network that repairs can write."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn

from reflow_lightning.layers import attention, recurrent  # noqa: F401  (they register their layers)
from reflow_lightning.layers.affine import Layer
from reflow_lightning.layers.plain import NotSupportedError, layer_of
from reflow_lightning.layers.weights import weight_names
from reflow_lightning.running.compat.torch import BatchNorm, RunningNorm, own_parameters

_NORMS = (RunningNorm, nn.LayerNorm, nn.GroupNorm)


class Layers(NamedTuple):
    """Layers by module name, and why others are left alone."""

    known: dict[str, Layer]
    skipped: dict[str, str]


def find_layers(model: nn.Module) -> Layers:
    """The layers whose affine maps can be written, in the order of ``model.named_modules()``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
        >>> found = find_layers(model)
        >>> list(found.known), found.skipped
        (['0'], {'1': 'its weight is no plain parameter'})
    """
    holders = Counter(id(p) for module in model.modules() for p in own_parameters(module).values())
    known: dict[str, Layer] = {}
    skipped: dict[str, str] = {}
    claimed: set[int] = set()  # attention writes the projection that is a module of its own
    for name, module in model.named_modules():
        own = list(own_parameters(module).values())
        if own and all(id(p) in claimed for p in own):
            continue
        try:
            layer = layer_of(module, name)
        except NotSupportedError as reason:
            skipped[name] = str(reason)
            continue
        if layer is None:
            if weight_names(module):
                skipped[name] = f"{type(module).__name__} is not registered with layer_of"
            continue
        if any(holders[id(p)] > 1 for p in module.parameters()):
            skipped[name] = "it shares a parameter with another layer"
            continue
        known[name] = layer
        claimed.update(id(p) for p in module.parameters())
    return Layers(known, skipped)


def normalised(model: nn.Module) -> dict[str, str]:
    """Weighted layers that a BatchNorm layer follows, as `signal_layers` has it, with the name of that layer.

    Example:
        >>> normalised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2)))
        {'0': '1'}
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, _NORMS) or weight_names(m)]
    return {
        name: after
        for (name, module), (after, norm) in pairwise(layers)
        if isinstance(norm, BatchNorm)
        and norm.num_features == getattr(module, "out_channels", getattr(module, "out_features", None))
    }


def first_tensor(output: Any) -> Tensor:
    """The output itself, or the first of several."""
    while not isinstance(output, Tensor):
        output = output[0]
    return output
