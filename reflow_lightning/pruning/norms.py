"""Weights that `weight_norm` or `spectral_norm` computes: the stored ones are pruned, as the computed ones say."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from reflow_lightning.layers import Computed, Inventory


def computed_in(model: nn.Module, names: Iterable[str]) -> dict[str, Computed]:
    """How weights are computed whose stored parameters have these names, as far as they are."""
    found = Inventory.of(model).computed
    named = dict(model.named_parameters(remove_duplicate=False)) if found else {}
    return {name: found[id(named[name])] for name in names if name in named and id(named[name]) in found}


def follow_norms(model: nn.Module, names: Iterable[str]) -> None:
    """Have norms follow a change of the parameters of these names, as the next forward passes of a training would."""
    for computed in computed_in(model, names).values():
        computed.follow()
