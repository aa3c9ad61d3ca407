"""The scores of each map by itself, where one parameter holds several: allocations and floors are about maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.layers import Inventory
from reflow_lightning.layers.fused import fused_maps, map_names, parameter_of
from reflow_lightning.pruning.criteria.protocols import StreamedCriterion, is_unsigned
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.sharding import is_sharded


@dataclass(frozen=True)
class Maps:
    """Scores by map, and where their outputs lie in the parameters.

    Attributes:
        scores: By the name of the map; of a parameter of one map by its own name.
        places: For each parameter that holds several: the dimension, and the outputs of each map by its name.
    """

    scores: dict[str, Scores]
    places: Mapping[str, tuple[int, Mapping[str, Tensor]]] = field(default_factory=dict)

    def whole(self, mask_of: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Name and mask of each parameter, one after the other.

        Args:
            mask_of: Gives the mask of a map, or of a parameter of one map, by its name.
        """
        for parameter in self._parameters:
            if parameter not in self.places:
                yield parameter, mask_of(parameter)
                continue
            dim, maps = self.places[parameter]
            order = torch.cat(list(maps.values())).argsort()
            side_by_side = torch.cat([mask_of(name) for name in maps], dim)
            yield parameter, side_by_side.index_select(dim, order.to(side_by_side.device))

    @property
    def _parameters(self) -> list[str]:
        owners = {name: parameter_of(name) for name in self.scores}
        return list(dict.fromkeys(owner if owner in self.places else name for name, owner in owners.items()))


@dataclass(frozen=True)
class _OfWhole:
    """A criterion for some outputs of a parameter, made from the scores of all its outputs."""

    scores: Scores
    dim: int
    outputs: Tensor

    @property
    def unsigned(self) -> bool:
        return is_unsigned(self.scores.criterion)

    def __call__(self, _: str, __: Tensor, /) -> Tensor:
        return _picked(self.scores.tensor, self.dim, self.outputs)

    def __repr__(self) -> str:
        return repr(self.scores.criterion)


def split_maps(model: nn.Module, scores: Mapping[str, Scores]) -> Maps:
    """The scores of each map of a model, in the order of the parameters.

    A parameter that is spread over processes, or that is computed anew in each pass, counts as one map.

    Args:
        model: The model.
        scores: By parameter name.

    Example:
        >>> from reflow_lightning.pruning import Magnitude
        >>> attention = nn.MultiheadAttention(2, 1)
        >>> weight = attention.in_proj_weight.detach()
        >>> maps = split_maps(attention, {"in_proj_weight": Scores("in_proj_weight", weight, Magnitude())})
        >>> [(name, tuple(s.shape)) for name, s in maps.scores.items()][1]
        ('in_proj_weight[keys]', (2, 2))
    """
    known = Inventory.of(model)
    fused, dims = fused_maps(model, known), {id(o.parameter): o.weight.outputs for o in known.weights.values()}
    named = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Scores] = {}
    places: dict[str, tuple[int, Mapping[str, Tensor]]] = {}
    for name, whole in scores.items():
        key = id(named.get(name))
        if key not in fused or whole.whole.group is not None or whole.needed is not None:
            found[name] = whole
            continue
        maps = map_names(name, fused[key])
        places[name] = (dims[key], maps)
        found |= {part: _part(whole, part, dims[key], outputs) for part, outputs in maps.items()}
    return Maps(found, places)


def map_sizes(model: nn.Module, weights: Mapping[str, Tensor], whole: Collection[str] = ()) -> dict[str, int]:
    """The number of weights of each map of a model, in the order of the parameters.

    Args:
        model: The model.
        weights: By parameter name. One that is spread over processes counts as one map.
        whole: Names of others that do.

    Example:
        >>> attention = nn.MultiheadAttention(2, 1)
        >>> list(map_sizes(attention, {"in_proj_weight": attention.in_proj_weight}).values())
        [4, 4, 4]
    """
    fused = fused_maps(model, Inventory.of(model))
    named = dict(model.named_parameters(remove_duplicate=False))
    sizes: dict[str, int] = {}
    for name, weight in weights.items():
        parts = () if is_sharded(weight) or name in whole else fused.get(id(named.get(name)), ())
        outputs = sum(len(part.outputs) for part in parts)
        of_maps = {n: weight.numel() * len(held) // outputs for n, held in map_names(name, parts).items()}
        sizes |= of_maps or {name: weight.numel()}
    return sizes


def _part(whole: Scores, name: str, dim: int, outputs: Tensor) -> Scores:
    """The scores of some outputs of a parameter."""
    before = whole.pruned_before
    pruned_before = None if before is None else lambda: _picked(before(), dim, outputs)
    outside = None if whole.outside is None else _picked(whole.outside, dim, outputs)
    streamed = isinstance(whole.criterion, StreamedCriterion)
    criterion = whole.criterion if streamed else _OfWhole(whole, dim, outputs)
    weight = _picked(whole.weight, dim, outputs)
    marks: dict[str, Any] = {"pruned_before": pruned_before, "outside": outside}
    return replace(whole, name=name, weight=weight, criterion=criterion, part=None, **marks)


def _picked(values: Tensor, dim: int, outputs: Tensor) -> Tensor:
    """Some outputs: a view where they lie side by side."""
    first, count = int(outputs[0]), len(outputs)
    if int(outputs[-1]) - first == count - 1:
        return values.narrow(dim, first, count)
    return values.index_select(dim, outputs.to(values.device))
