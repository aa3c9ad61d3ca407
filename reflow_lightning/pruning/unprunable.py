"""Weights that can't be pruned: quantized ones, and those computed anew in each pass, so that zeros would be lost."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrize

from reflow_lightning.layers.weights import weight_names
from reflow_lightning.running.compat.torch import computed_by, own_parameters, pre_hooks

_REMEDY = (
    "make it a parameter first, with remove_parametrizations of torch.nn.utils.parametrize, or with prune.remove, "
    "remove_weight_norm or remove_spectral_norm of torch.nn.utils"
)


def unprunable_weights(model: nn.Module, candidates: Mapping[str, Tensor]) -> dict[str, str]:
    """Weights that would be candidates if they were parameters, and of floating point: why they are not, by name.

    Args:
        model: Any module.
        candidates: Parameters of any type that were chosen.

    Example:
        >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
        >>> list(unprunable_weights(nn.Sequential(layer, nn.Linear(2, 2)), {}))
        ['0.weight']
    """
    reasons = {
        name: f"is {candidate.dtype}, not floating point: prune before you quantize"
        for name, candidate in candidates.items()
        if not candidate.is_floating_point()
    }
    for prefix, module in model.named_modules():
        for weight in weight_names(module):
            if weight not in own_parameters(module) and (kinds := _computed_by(module, weight)):
                name = f"{prefix}.{weight}" if prefix else weight
                reasons[name] = f"is computed by {', '.join(kinds)} in each forward pass: {_REMEDY}"
    return reasons


def sources(name: str) -> tuple[str, ...]:
    """How the names of the parameters begin that such a weight is computed from.

    Example:
        >>> sources("0.weight")
        ('0.parametrizations.weight.', '0.weight_')
    """
    module, dot, weight = name.rpartition(".")
    return (f"{module}{dot}parametrizations.{weight}.", f"{name}_")


def listed(reasons: Mapping[str, str]) -> str:
    """The first three, as a text.

    Example:
        >>> listed({name: "is odd" for name in "abcd"})
        "'a' is odd; 'b' is odd; 'c' is odd; and 1 more"
    """
    shown = [f"'{name}' {why}" for name, why in list(reasons.items())[:3]]
    return "; ".join(shown) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _computed_by(module: nn.Module, weight: str) -> list[str]:
    """The types of the parametrizations, or of the hooks of older kinds, that compute a weight."""
    if parametrize.is_parametrized(module, weight):
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        return [type(kind).__name__ for kind in parametrizations[weight].children()]
    return [type(hook).__name__ for hook in pre_hooks(module) if computed_by(hook) == weight]
