"""Weights that can't be pruned: complex or quantized, or computed anew in each pass, so that zeros would be lost."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reflow_lightning.layers import Inventory
from reflow_lightning.running.compat.hooks import computed_by, pre_hooks

_REMEDY = (
    "make it a parameter first, with remove_parametrizations of torch.nn.utils.parametrize, or with prune.remove, "
    "remove_weight_norm or remove_spectral_norm of torch.nn.utils"
)

UNKNOWN_REMEDY = ": name it in include, or register the type with reflow_lightning.layers.layer_of"
"""What to do about `unknown_weights`."""


def unprunable_weights(known: Inventory, candidates: Mapping[str, Tensor]) -> dict[str, str]:
    """Weights that would be candidates if they were parameters, and of floating point: why they are not, by name.

    Args:
        known: What is known of the model.
        candidates: Parameters of any type that were chosen.

    Example:
        >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))
        >>> list(unprunable_weights(Inventory.of(nn.Sequential(layer, nn.Linear(2, 2))), {}))
        ['0.weight']
    """
    reasons = {
        name: f"{candidate.dtype}, {_remedy(candidate.dtype)}"
        for name, candidate in candidates.items()
        if not candidate.is_floating_point()
    }
    for name, owned in known.weights.items():
        kinds = _computed_by(owned.holder, name.rpartition(".")[2]) if owned.parameter is None else []
        if kinds:
            reasons[name] = f"computed by {', '.join(kinds)} in each forward pass: {_REMEDY}"
    return reasons


def _remedy(dtype: torch.dtype) -> str:
    """Why a type that is not of floating point is left out, and what to do."""
    if dtype.is_complex:
        return "and complex weights are not supported: hold real and imaginary parts as a parameter each"
    if dtype == torch.bool:
        return "which has no magnitude to be pruned by"
    return "not floating point: prune before you quantize"


def unknown_weights(known: Inventory) -> dict[str, str]:
    """Matrices that are left out because it is not known what their layer does with them: why, by name."""
    return {
        name: f"of {kind}, whose forward pass changes it before it multiplies, so that zeros do not stay zeros"
        if name.rpartition(".")[0] in known.layers
        else f"of {kind}, an unknown type of layer"
        for name, kind in known.unknown.items()
    }


def sources(name: str) -> tuple[str, ...]:
    """How the names of the parameters begin that such a weight is computed from.

    Example:
        >>> sources("0.weight")
        ('0.parametrizations.weight.', '0.weight_')
    """
    module, dot, weight = name.rpartition(".")
    return (f"{module}{dot}parametrizations.{weight}.", f"{name}_")


def _computed_by(module: nn.Module, weight: str) -> list[str]:
    """The types of the parametrizations, or of the hooks of older kinds, that compute a weight."""
    if parametrize.is_parametrized(module, weight):
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        return [type(kind).__name__ for kind in parametrizations[weight].children()]
    return [type(hook).__name__ for hook in pre_hooks(module) if computed_by(hook) == weight]
