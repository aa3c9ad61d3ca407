"""Find the layers of a network: what may be pruned, what a repair can write, and what is unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from reflow_lightning.layers.layer import Layer, NotSupportedError, Weight
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.compat.torch import may_hold, own_parameters


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
            continue
        _check(layer)
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


class Owned(NamedTuple):
    """A prunable weight in its model.

    Attributes:
        layer: The layer that it belongs to.
        weight: What is known of it.
        holder: The module that has it as an attribute: the layer's module, or one within.
        parameter: The parameter, unless the weight is computed in each forward pass.
    """

    layer: Layer
    weight: Weight
    holder: nn.Module
    parameter: nn.Parameter | None


def prunable_weights(model: nn.Module) -> dict[str, Owned]:
    """The matrices of all known layers that multiply the signal, by their names in the model.

    Raises:
        ValueError: If a layer is said to have a weight that it does not have.

    Example:
        >>> list(prunable_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))))
        ['0.weight', '3.weight']
    """
    found: dict[str, Owned] = {}
    for prefix, layer in known_layers(model):
        for weight in layer.weights:
            parent, _, name = weight.name.rpartition(".")
            holder = _submodule(layer, parent)
            if holder is None or not _has(holder, name):
                raise ValueError(
                    f"layer '{prefix}' ({type(layer.module).__name__}) has no weight '{weight.name}', as "
                    f"{type(layer).__name__} says: mend that class, or register another with layer_of"
                )
            full = f"{prefix}.{weight.name}" if prefix else weight.name
            found.setdefault(full, Owned(layer, weight, holder, own_parameters(holder).get(name)))
    return found


def input_dims(model: nn.Module) -> dict[int, int]:
    """The dimension of each prunable parameter that runs along the input channels, by the id of the parameter.

    Example:
        >>> layer = nn.ConvTranspose1d(4, 8, 3)
        >>> input_dims(layer)[id(layer.weight)]
        0
    """
    return {
        id(owned.parameter): owned.weight.inputs
        for owned in prunable_weights(model).values()
        if owned.parameter is not None
    }


def unknown_matrices(model: nn.Module) -> dict[str, str]:
    """Parameters of two dimensions or more that belong to no known layer, and the type of the module, by name.

    Tables that are added or looked up, such as a position's embedding, are no matrices: they begin with a dimension of
    1, have a single dimension of more than 1, or say so in their names.

    Example:
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up = nn.Parameter(nn.Linear(4, 8).weight.detach().expand(2, 8, 4).clone())
        >>> unknown_matrices(nn.ModuleDict({"experts": Experts(), "head": nn.Linear(8, 2)}))
        {'experts.up': 'Experts'}
    """
    known = {id(p) for _, layer in known_layers(model) for p in layer.module.parameters()}
    return {
        f"{prefix}.{name}" if prefix else name: type(module).__name__
        for prefix, module in model.named_modules()
        if not isinstance(module, (parametrize.ParametrizationList, nn.ParameterList, nn.ParameterDict))
        for name, parameter in own_parameters(module).items()
        if id(parameter) not in known and _is_matrix(name, parameter)
    }


def first_tensor(output: Any) -> Tensor:
    """The output itself, or the first of several."""
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def _is_matrix(name: str, parameter: Tensor) -> bool:
    if nn.parameter.is_lazy(parameter) or not parameter.is_floating_point():
        return False
    is_table = any(part in name.lower() for part in ("embed", "token", "pos", "bias"))
    return sum(size > 1 for size in parameter.shape) > 1 and parameter.shape[0] > 1 and not is_table


def _has(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute; one that is parametrized is not computed for that."""
    return may_hold(module, name) or name in vars(module) or parametrize.is_parametrized(module, name)


def _submodule(layer: Layer, name: str) -> nn.Module | None:
    return dict(layer.module.named_modules()).get(name)


def _check(layer: Layer) -> None:
    """Check that the maps of a layer fit it, since others may have written their class."""
    storages = {p.untyped_storage().data_ptr() for p in layer.module.parameters() if not nn.parameter.is_lazy(p)}
    for affine in layer.maps:
        parts = [("weight", w) for w in affine.weights] + [("bias", b) for b in (*affine.biases, *affine.offsets)]
        for kind, part in parts:
            reason = None
            if not part.ndim or len(part) != affine.channels or (kind == "bias" and part.ndim != 1):
                reason = f"is {tuple(part.shape)}, not {affine.channels} rows"
            elif part.untyped_storage().data_ptr() not in storages:
                reason = "is no view of a parameter, so that what is written would be lost"
            if reason is not None:
                raise ValueError(
                    f"layer '{layer.name}' ({type(layer.module).__name__}): a {kind} of map '{affine.name}' {reason}: "
                    f"mend {type(layer).__name__}, which is registered with layer_of"
                )
