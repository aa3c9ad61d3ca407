"""The entropy-weighted pruning budget: what is pruned comes from layers whose rectifiers hardly switch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reflow_lightning.layers.fused import parameter_of
from reflow_lightning.layers.padding import Padding
from reflow_lightning.pruning.allocations.apportion import apportion
from reflow_lightning.pruning.allocations.protocols import Allocation
from reflow_lightning.pruning.allocations.registry import register_allocation
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.names import owner_of
from reflow_lightning.running.processes import gather
from reflow_lightning.running.shards import whole_of
from reflow_lightning.signal.layer_entropy import RectifierStates
from reflow_lightning.signal.leaving import warn_of_left_out
from reflow_lightning.signal.neurons import Zeros, check_zeros, layer_entropy


@dataclass(frozen=True)
class EntropyBudget:
    """The budget of *Layer Collapse Can be Induced by Unstructured Pruning* (arXiv 2404.16890).

    What a pruning takes away is shared out over the layers whose rectifier still switches, most of it to those that
    matter least: with entropy H of the rectifier after it (`layer_entropy`) and mean absolute weight m of what is left
    of it, a layer's relevance is ``I = H m``, and its share ``softmax(sum(I) / I)``. It is nearly winner-takes-all, so
    that layers are emptied one after the other until their rectifiers are linear. Where no skip connection leads around
    an emptied layer, no signal passes: ``min_kept`` keeps some of its weights.

    A layer that is asked for more than it has above its floor gives all of that, and the others share the rest anew.
    What they can't give comes from the layers that no rectifier follows, or whose rectifier no longer switches, in
    proportion to the weights that they have left. The paper prunes a fraction of the weights of the switching layers
    only; here the sparsity that is asked for is always reached.

    Attributes:
        zeros: What a pre-activation of exactly zero counts as, ``"ignore"`` (don't care) or ``"off"``.
        saturated: Count neurons that never switch in the entropy of their layer.

    Example:
        >>> from reflow_lightning.pruning import prune
        >>> model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2))
        >>> _ = nn.init.constant_(model[0].weight, 1e-3), nn.init.zeros_(model[0].bias)
        >>> masks = prune(model, 0.3, allocation="entropy", batches=[torch.randn(64, 10)], max_batches=1)
        >>> masks, masks.sparsities["4.weight"]
        (Masks(3 tensors, 640 weights, 0.3000 pruned), 0.0)
    """

    zeros: Zeros = "ignore"
    saturated: bool = False
    unit_by_unit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_zeros(self.zeros)

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Allocation:
        """See `DataAllocation`.

        Raises:
            ValueError: If none of the weights belongs to a layer that a rectifier follows, or one puts out NaN.
        """
        states, padding, read = RectifierStates(model), Padding(model), 0
        with only_training(model, ()), torch.no_grad():
            for batch in batches:
                with states.counting(model, padding.of(model, batch, forward)):
                    forward(model, batch)
                read += 1
        layers = {
            layer: layer_entropy(counts, zeros=self.zeros, saturated=self.saturated)
            for layer, (_, counts) in states.counts().items()
        }
        warn_of_left_out(states.left_out)
        entropies = {name: layers[layer] for name in weights if (layer := owner_of(name)) in layers}
        unknown = [name for name, entropy in entropies.items() if math.isnan(entropy)]
        if unknown:
            raise ValueError(
                f"allocation {self} finds NaN before the rectifier after '{unknown[0]}': look at the batches and at "
                "BatchNorm's statistics"
            )
        if not entropies and sum(gather(read)):  # without any batch, that is what the caller says
            raise ValueError(
                f"allocation {self} finds no rectifier after any selected layer of {type(model).__name__}: look at "
                "forward, include and exclude, or use 'global', 'uniform' or 'erk'"
            )
        return EntropyShares(self, entropies)


@dataclass(frozen=True)
class EntropyShares:
    """An `Allocation`: the budget of `EntropyBudget` with entropies that were found on data.

    Attributes:
        origin: What found them, for messages.
        entropies: Entropy of the rectifier after a layer, by parameter name.

    Example:
        >>> EntropyShares("by hand", {"0.weight": 0.5}).entropies
        {'0.weight': 0.5}
    """

    origin: object
    entropies: Mapping[str, float] = field(repr=False)

    def __call__(self, scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
        """Number of weights that each tensor keeps."""
        remaining = {name: _remaining(s) for name, s in scores.items()}
        left = {name: max(floors[name], len(values)) for name, values in remaining.items()}
        budget = sum(left.values()) - keep
        if budget < 0:  # more stays than earlier prunings left
            return apportion(keep, {n: s.size for n, s in scores.items()}, left, {n: s.most for n, s in scores.items()})
        room = {name: left[name] - floors[name] for name in scores}
        relevance = {
            name: entropy * float(remaining[name].mean())
            for name in scores
            if (entropy := self.entropies.get(parameter_of(name), 0)) > 0 and room[name] > 0
        }
        given = redistributed(budget, relevance, room)
        others = {name: room[name] for name in scores if name not in relevance}
        rest = apportion(
            budget - sum(given.values()),
            {n: left[n] if others[n] else 0 for n in others},
            dict.fromkeys(others, 0),
            others,
        )
        return {name: left[name] - {**given, **rest}[name] for name in scores}


def redistributed(budget: int, relevance: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """Share out what is to be pruned by ``softmax(sum(I) / I)``, but take no more from a layer than it has.

    All layers that are asked for more than they have give all of it; the others share the rest in the same way, until
    none is asked for too much. Whole numbers by largest remainders, so that the sum is exact.

    Args:
        budget: Number of weights to be pruned. If it is more than all have, all give all.
        relevance: I by name, positive.
        room: The most that each gives.

    Example:
        >>> redistributed(10, {"a": 1.0, "b": 1.0, "c": 4.0}, {"a": 2, "b": 9, "c": 9})
        {'a': 2, 'b': 8, 'c': 0}
    """
    shares: dict[str, float] = {}
    active, left = dict(relevance), budget
    while active:
        asked = _asked(left, active)
        full = [name for name, share in asked.items() if share > room[name]]
        if not full:
            shares |= asked
            break
        for name in full:
            shares[name] = room[name]
            left -= room[name]
            del active[name]
    most = {name: room[name] for name in relevance}
    given = min(budget, sum(most.values()))
    return apportion(given, {name: shares[name] for name in relevance}, dict.fromkeys(relevance, 0), most)


def _asked(budget: int, relevance: Mapping[str, float]) -> dict[str, float]:
    values = torch.tensor(list(relevance.values()), dtype=torch.float64)
    total = values.sum()
    ratio = total / values.clamp(min=max(float(total) * 1e-12, 1e-300))  # no relevance must make it infinite
    return dict(zip(relevance, (budget * (ratio - ratio.max()).softmax(0)).tolist(), strict=True))


def _remaining(scores: Scores) -> Tensor:
    """Absolute values, in float64, of the weights that earlier prunings and the pattern leave."""
    pruned = scores.pruned
    gone = scores.weight == 0 if pruned is None else pruned
    gone = gone if scores.outside is None else gone | scores.outside
    part = scores.whole
    return whole_of(part)[~whole_of(replace(part, values=gone))].abs().double()


register_allocation("entropy", EntropyBudget())
