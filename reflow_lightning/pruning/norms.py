"""Weights that `weight_norm` or `spectral_norm` computes: the stored ones are pruned, as the computed ones say."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from reflow_lightning.layers import Computed, Inventory
from reflow_lightning.running.units import held


def computed_in(model: nn.Module, names: Iterable[str]) -> dict[str, Computed]:
    """How weights are computed whose stored parameters have these names, as far as they are."""
    found = Inventory.of(model).computed
    named = dict(model.named_parameters(remove_duplicate=False)) if found else {}
    return {name: found[id(named[name])] for name in names if name in named and id(named[name]) in found}


def computed_values(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """What multiplies the signal in place of some parameters, by their names: what norms compute of them.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> name, stored = "parametrizations.weight.original1", layer.parametrizations.weight.original1
        >>> _ = stored.data.mul_(2)
        >>> bool((2 * computed_values(layer, [name])[name]).allclose(stored))
        True
    """
    found = {}
    for name, computed in computed_in(model, names).items():
        with held(computed.module):
            found[name] = computed.value()
    return found


def follow_norms(model: nn.Module, names: Iterable[str]) -> None:
    """Have norms follow a change of the parameters of these names, as the next forward passes of a training would."""
    for computed in computed_in(model, names).values():
        computed.follow()
