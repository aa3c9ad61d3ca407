"""Which parameters may be pruned: by module type, then by name pattern."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from reflow_lightning.names import Patterns, as_patterns, matches, nearest

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def weight_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the module's own weight matrices: what multiplies the signal, so never a bias, norm or embedding.

    Example:
        >>> weight_names(nn.GRU(3, 4)), weight_names(nn.BatchNorm1d(3))
        (('weight_ih_l0', 'weight_hh_l0'), ())
    """
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return ("weight",)
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return tuple(name for name in own if name.startswith("weight_"))
    if isinstance(module, nn.MultiheadAttention):  # its projections are Linear maps kept as bare parameters
        return tuple(name for name in own if name in _ATTENTION_WEIGHTS)
    return ()


def _aliases(model: nn.Module) -> dict[int, list[str]]:
    """Every name of every parameter: a tied parameter has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _prunable(model: nn.Module) -> set[int]:
    prunable: set[int] = set()
    embeddings: set[int] = set()
    for module in model.modules():
        parameters = module._parameters
        prunable.update(id(parameters[name]) for name in weight_names(module) if parameters.get(name) is not None)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            embeddings.add(id(module.weight))
    return prunable - embeddings  # a decoder that is tied to an embedding is an embedding


def _usable(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in parameters:
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"parameter '{name}' is not initialised yet: run one forward pass before pruning")
        if parameter.is_meta:
            raise ValueError(f"parameter '{name}' has no values (device 'meta'): load the weights before pruning")
        yield name, parameter


def select(model: nn.Module, include: Patterns = ("*",), exclude: Patterns = ()) -> dict[str, nn.Parameter]:
    """Select the parameters that may be pruned.

    Candidates are the weights of Conv*/Linear layers, of recurrent cells and of attention projections. A pattern that
    is a parameter's *full name* also adds what is no candidate, such as a norm's weight or a parameter of your own.

    Args:
        model: Any module. A tied parameter counts once, under its first name; patterns may use any of its names.
        include: Glob patterns on parameter names; a parameter needs to match one.
        exclude: Glob patterns on parameter names; takes precedence.

    Returns:
        Parameters by name, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: If an ``include`` pattern matches nothing, or nothing is left.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
        >>> list(select(model)), list(select(model, exclude="3.*"))
        (['0.weight', '3.weight'], ['0.weight'])
    """
    include, exclude = as_patterns(include), as_patterns(exclude)
    aliases, prunable = _aliases(model), _prunable(model)
    names = [name for group in aliases.values() for name in group]
    candidates = {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in prunable or any(alias in include for alias in aliases[id(parameter)])
    }
    candidates = {name: p for name, p in candidates.items() if p.is_floating_point()}
    matched = {
        pattern: [name for name, p in candidates.items() if matches(aliases[id(p)], pattern)]
        for pattern in (*include, *exclude)
    }
    for pattern in include:
        if not matched[pattern] and pattern != "*":
            raise ValueError(f"include pattern '{pattern}' matches no prunable parameter{nearest(pattern, names)}")
    for pattern in exclude:
        if not matched[pattern]:
            warnings.warn(
                f"exclude pattern '{pattern}' matches no prunable parameter{nearest(pattern, names)}", stacklevel=3
            )
    included = {name for pattern in include for name in matched[pattern]}
    excluded = {name for pattern in exclude for name in matched[pattern]}
    selected = {name: p for name, p in candidates.items() if name in included - excluded}
    if not sum(p.numel() for p in _sized(selected)):
        raise ValueError(
            f"nothing to prune in {type(model).__name__} with include={list(include)}, exclude={list(exclude)}: "
            "candidates are the weights of Conv*, Linear, recurrent and attention layers; "
            "name any other parameter in full in include"
        )
    return selected


def _sized(selected: dict[str, nn.Parameter]) -> Iterator[Tensor]:
    return (parameter for _, parameter in _usable(selected.items()))
