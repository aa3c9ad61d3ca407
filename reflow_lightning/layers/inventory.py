"""What is known of the layers of a model, looked up once: its prunable weights, and the matrices of unknown layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from reflow_lightning.layers.acting import zeros_act
from reflow_lightning.layers.computed import Computed
from reflow_lightning.layers.find import known_layers
from reflow_lightning.layers.layer import Layer, Weight
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.compat.torch import may_hold, own_parameters


class Owned(NamedTuple):
    """A prunable weight in its model.

    Attributes:
        layer: The layer that it belongs to.
        weight: What is known of it.
        holder: The module that has it as an attribute: the layer's module, or one within.
        parameter: The parameter, or what is stored of a computed weight in its place; ``None`` where nothing is known.
        computed: How it is computed in each forward pass, if it is, and that is known.
    """

    layer: Layer
    weight: Weight
    holder: nn.Module
    parameter: nn.Parameter | None
    computed: Computed | None = None

    @property
    def value(self) -> Tensor:
        """What multiplies the signal, as far as it is known; it shares the model's memory, unless it is computed."""
        assert self.parameter is not None
        return self.parameter.detach() if self.computed is None else self.computed.value()


_TABLES = frozenset(("embed", "embedding", "embeddings", "token", "tokens", "bias", "table"))
"""How the names of parameters end that are added or looked up."""

_BIASES = frozenset(("b", "bias", "biases"))


@dataclass(frozen=True)
class Inventory:
    """What is known of a model.

    Attributes:
        layers: All modules whose type is known, by name, whether they can be written or not.
        weights: Their matrices that multiply the signal, by their names in the model.
        unknown: Parameters of two dimensions or more that belong to no known layer, and the type of the module, by
            name. Tables that are added or looked up, such as a position's embedding, are no matrices: they begin with a
            dimension of 1, have a single dimension of more than 1, or say so in their names.

    Example:
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up = nn.Parameter(nn.Linear(4, 8).weight.detach().expand(2, 8, 4).clone())
        >>> found = Inventory.of(nn.ModuleDict({"experts": Experts(), "head": nn.Linear(8, 2)}))
        >>> list(found.layers), list(found.weights), found.unknown
        (['head'], ['head.weight'], {'experts.up': 'Experts'})
    """

    layers: Mapping[str, Layer]
    weights: Mapping[str, Owned]
    unknown: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> Inventory:
        """Look a model up.

        Raises:
            ValueError: If a layer is said to have a weight that it does not have.
        """
        layers = dict(known_layers(model))
        weights = _weights(layers)
        return cls(layers, weights, _unknown(model, layers, weights))

    @property
    def prunable(self) -> set[int]:
        """The ids of the parameters that may be pruned. A decoder that is tied to an embedding is an embedding."""
        embeddings = {
            id(parameter)
            for layer in self.layers.values()
            if layer.is_embedding
            for parameter in layer.module.parameters(recurse=False)
        }
        return {id(owned.parameter) for owned in self.weights.values()} - embeddings

    @property
    def computed(self) -> dict[int, Computed]:
        """How weights are computed whose stored parameters can be pruned, by the ids of these.

        Example:
            >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
            >>> [computed.path for computed in Inventory.of(layer).computed.values()]
            ['parametrizations.weight.original']
        """
        found = (owned.computed for owned in self.weights.values())
        return {id(computed.stored): computed for computed in found if computed is not None}

    @property
    def stored(self) -> dict[int, Weight]:
        """What is known of each prunable parameter, such as along which dimension its inputs lie, by its id.

        Example:
            >>> layer = nn.ConvTranspose1d(4, 8, 3)
            >>> Inventory.of(layer).stored[id(layer.weight)].inputs
            0
        """
        held = (owned for owned in self.weights.values() if owned.parameter is not None)
        return {id(owned.parameter): owned.weight for owned in held}


def _weights(layers: Mapping[str, Layer]) -> dict[str, Owned]:
    found: dict[str, Owned] = {}
    for prefix, layer in layers.items():
        within = dict(layer.module.named_modules())
        for weight in layer.weights:
            parent, _, name = weight.name.rpartition(".")
            holder = within.get(parent)
            if holder is None or not _has(holder, name):
                if not layer_of.names(type(layer.module)):
                    continue  # a subclass of a known type may go without, and hold others in its place
                raise ValueError(
                    f"layer '{prefix}' ({type(layer.module).__name__}) has no weight '{weight.name}', as "
                    f"{type(layer).__name__} says: mend that class, or register another with layer_of"
                )
            if not (layer_of.names(type(layer.module)) or zeros_act(holder, name)):
                continue
            full = f"{prefix}.{weight.name}" if prefix else weight.name
            parameter = own_parameters(holder).get(name)
            computed = Computed.of(holder, name) if parameter is None else None
            stored = parameter if computed is None else computed.stored
            found.setdefault(full, Owned(layer, weight, holder, stored, computed))
    return found


def _unknown(model: nn.Module, layers: Mapping[str, Layer], weights: Mapping[str, Owned]) -> dict[str, str]:
    found = Counter(id(owned.layer) for owned in weights.values())
    whole = [layer for layer in layers.values() if found[id(layer)] >= len(layer.weights)]  # none of its own is missing
    known = {id(owned.parameter) for owned in weights.values()}
    known |= {id(p) for layer in whole for p in layer.module.parameters()}
    return {
        f"{prefix}.{name}" if prefix else name: type(module).__name__
        for prefix, module in model.named_modules()
        if not isinstance(module, parametrize.ParametrizationList)
        for name, parameter in own_parameters(module).items()
        if id(parameter) not in known and _is_matrix(name, parameter) and not _is_stacked_bias(name, parameter, module)
    }


def _is_matrix(name: str, parameter: Tensor) -> bool:
    if nn.parameter.is_lazy(parameter) or parameter.is_nested:
        return False
    words = _words(name)
    is_table = words[-1] in _TABLES or "pos" in words
    return sum(size > 1 for size in parameter.shape) > 1 and parameter.shape[0] > 1 and not is_table


def _is_stacked_bias(name: str, parameter: Tensor, module: nn.Module) -> bool:
    """Whether a parameter beside a stack of matrices holds a bias for each of them, by its name."""
    others = (p for p in own_parameters(module).values() if not nn.parameter.is_lazy(p) and p.ndim == 3)
    beside = any(len(other) == len(parameter) for other in others)
    return beside and parameter.ndim == 2 and not _BIASES.isdisjoint(_words(name))


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", name.lower()) if word] or [""]


def _has(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute; one that is parametrized is not computed for that."""
    return may_hold(module, name) or name in vars(module) or parametrize.is_parametrized(module, name)
