"""Matrices that hold several maps of one input, such as queries, keys and values: which outputs belong to which map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.layers.attention import AttentionLayer
from reflow_lightning.layers.inventory import Inventory, Owned

_ATTENTION = ("queries", "keys", "values")
_GATED = ("first half", "second half")  # which of them is the gate, the networks do not agree on
_SIDE_BY_SIDE = frozenset(("qkv", "Wqkv", "qkv_proj", "c_attn"))
_BY_HEAD = frozenset(("query_key_value",))
_HALVES = frozenset(("gate_up_proj", "Wi"))


class FusedMap(NamedTuple):
    """One of the maps that a weight holds.

    Attributes:
        name: What it gives.
        outputs: The places of its outputs among all outputs of the weight.
    """

    name: str
    outputs: Tensor


def fused_maps(model: nn.Module, known: Inventory) -> dict[int, tuple[FusedMap, ...]]:
    """The maps of weights that hold several, by the id of the parameter.

    Attention of torch says so; of a linear layer it is told by the name under which timm and transformers have it, if
    its size fits: three equal parts, side by side or in turn for each head; or fewer heads of keys and values, where
    the attention around says how many. Any other weight counts as one map.

    Args:
        model: The model.
        known: What is known of it.

    Example:
        >>> attention = nn.ModuleDict({"qkv": nn.Linear(2, 6)})
        >>> [maps] = fused_maps(attention, Inventory.of(attention)).values()
        >>> [(part.name, part.outputs.tolist()) for part in maps]
        [('queries', [0, 1]), ('keys', [2, 3]), ('values', [4, 5])]
    """
    found: dict[int, tuple[FusedMap, ...]] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, owned in known.weights.items():
        weight = owned.parameter
        if weight is None or owned.computed is not None or owned.weight.stacked or nn.parameter.is_lazy(weight):
            continue
        if parts := _parts(modules, name, owned, weight):
            found[id(weight)] = parts
    return found


def _parts(modules: Mapping[str, nn.Module], name: str, owned: Owned, weight: Tensor) -> tuple[FusedMap, ...]:
    if isinstance(owned.layer, AttentionLayer):
        return _equal(weight.shape[0], _ATTENTION) if owned.weight.name == "in_proj_weight" else ()
    if weight.ndim != 2:
        return ()
    outputs, inputs = weight.shape[owned.weight.outputs], weight.shape[owned.weight.inputs]
    parent, _, own = name.rpartition(".")[0].rpartition(".")
    around = modules[parent]
    if own in _HALVES and outputs % 2 == 0:
        return _equal(outputs, _GATED)
    by_head = own in _BY_HEAD or getattr(around, "head_first", False) or type(around).__name__ == "GPTBigCodeAttention"
    if by_head and outputs == 3 * inputs:
        size = getattr(around, "head_size", getattr(around, "head_dim", None))
        return _in_turn(outputs, size) if isinstance(size, int) and outputs % (3 * size) == 0 else ()
    if own not in _SIDE_BY_SIDE or by_head or type(around).__name__ == "CodeGenAttention":  # whose order is its own
        return ()
    shared = _shared(outputs, around)
    return shared or (_equal(outputs, _ATTENTION) if outputs == 3 * inputs else ())


def _shared(outputs: int, around: nn.Module) -> tuple[FusedMap, ...]:
    """Queries, and fewer heads of keys and values, as the attention around says."""
    heads, size = getattr(around, "num_key_value_heads", None), getattr(around, "head_dim", None)
    if not isinstance(heads, int) or not isinstance(size, int) or not 0 < 2 * heads * size < outputs:
        return ()
    places, shared = torch.arange(outputs), heads * size
    parts = torch.split(places, [outputs - 2 * shared, shared, shared])
    return tuple(map(FusedMap, _ATTENTION, parts))


def _equal(outputs: int, names: tuple[str, ...]) -> tuple[FusedMap, ...]:
    return tuple(map(FusedMap, names, torch.arange(outputs).chunk(len(names))))


def _in_turn(outputs: int, size: int) -> tuple[FusedMap, ...]:
    """Each head has its queries, keys and values."""
    places = torch.arange(outputs).view(-1, 3, size)
    return tuple(FusedMap(name, places[:, index].flatten()) for index, name in enumerate(_ATTENTION))


def map_names(parameter: str, maps: tuple[FusedMap, ...]) -> Mapping[str, Tensor]:
    """The outputs of each map by its full name.

    Example:
        >>> list(map_names("attn.qkv.weight", _equal(6, _ATTENTION)))
        ['attn.qkv.weight[queries]', 'attn.qkv.weight[keys]', 'attn.qkv.weight[values]']
    """
    return {f"{parameter}[{part.name}]": part.outputs for part in maps}


def parameter_of(map_name: str) -> str:
    """The parameter that holds a map; a parameter itself is its own.

    Example:
        >>> parameter_of("attn.qkv.weight[keys]"), parameter_of("fc.weight")
        ('attn.qkv.weight', 'fc.weight')
    """
    return map_name.rpartition("[")[0] if map_name.endswith("]") else map_name
