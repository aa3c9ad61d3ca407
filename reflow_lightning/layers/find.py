"""Find the layers of a network: what may be pruned, what a repair can write, and what is unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from reflow_lightning.layers.layer import Layer, NotSupportedError
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.compat.torch import own_parameters
from reflow_lightning.running.sharding import is_sharded


class Layers(NamedTuple):
    """Layers by module name, and why others are left alone."""

    known: dict[str, Layer]
    skipped: dict[str, str]


def find_layers(model: nn.Module) -> Layers:
    """The layers whose affine maps can be written, in the order of ``model.named_modules()``.

    Raises:
        ValueError: If what was registered of a layer does not fit it.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
        >>> found = find_layers(model)
        >>> list(found.known), found.skipped
        (['0'], {'1': 'its weight is no plain parameter, but computed in each pass...'})
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
            continue
        check_maps(layer)
        if any(holders[id(p)] > 1 for p in module.parameters()):
            skipped[name] = "it shares a parameter with another layer"
            continue
        known[name] = layer
        claimed.update(id(p) for p in module.parameters())
    return Layers(known, skipped)


def known_layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """All modules of a model whose type is known, with what is known of them, whether it can be written or not.

    Example:
        >>> [(name, layer.is_norm) for name, layer in known_layers(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))]
        [('0', False), ('1', True)]
    """
    for name, module in model.named_modules():
        try:
            layer = layer_of.known(module, name)
        except NotSupportedError:  # a function of the user's may refuse a module as a whole
            continue
        if layer is not None:
            yield name, layer


def first_tensor(output: Any) -> Tensor:
    """The output itself, or the first of several."""
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def check_maps(layer: Layer) -> None:
    """Check that the maps of a layer fit it as it is now, since others may have written their class.

    Raises:
        ValueError: If they do not.
    """
    parameters = [p for p in layer.module.parameters() if not nn.parameter.is_lazy(p)]
    if any(map(is_sharded, parameters)):
        return  # they have no storage of their own here, and are not written
    storages = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    for affine in layer.maps:
        parts = [("weight", w) for w in affine.weights] + [("bias", b) for b in (*affine.biases, *affine.offsets)]
        for kind, part in parts:
            reason = None
            if not part.ndim or len(part) != affine.channels or (kind == "bias" and part.ndim != 1):
                reason = f"is {tuple(part.shape)}, not {affine.channels} rows"
            elif part.untyped_storage().data_ptr() not in storages:
                reason = "is no view of a parameter as it is now, so that what is written would be lost"
            if reason is not None:
                raise ValueError(
                    f"layer '{layer.name}' ({type(layer.module).__name__}): a {kind} of map '{affine.name}' {reason}: "
                    f"mend {type(layer).__name__}, which is registered with layer_of"
                )
