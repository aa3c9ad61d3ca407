"""Which parameters may be pruned: by module type, then by name pattern."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from reflow_lightning.layers.weights import weight_names
from reflow_lightning.pruning.storage import check_storage
from reflow_lightning.pruning.unprunable import listed, sources, unprunable_weights
from reflow_lightning.running.compat.torch import COMPILED, own_parameters
from reflow_lightning.running.names import Patterns, as_patterns, matches, nearest
from reflow_lightning.running.processes import warn


def _aliases(model: nn.Module) -> dict[int, list[str]]:
    """Every name of every parameter: a tied parameter has several, and so has one in a compiled module."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        if (plain := name.replace(f"{COMPILED}.", "")) != name:  # what torch.compile puts before the names
            names[id(parameter)].append(plain)
    return names


def _prunable(model: nn.Module) -> set[int]:
    prunable: set[int] = set()
    embeddings: set[int] = set()
    for module in model.modules():
        parameters = own_parameters(module)
        prunable.update(id(parameters[name]) for name in weight_names(module) if name in parameters)
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

    Candidates are the weights of Conv*/Linear layers, of recurrent cells and of attention projections, frozen ones
    too. A pattern that is a parameter's *full name* also adds what is no candidate, such as a norm's weight or a
    parameter of your own. A warning names quantized and parametrized weights, which stay as they are.

    Args:
        model: Any module. A tied parameter counts once, under its first name; patterns may use any of its names, and
            of a compiled module's also those without ``_orig_mod.``.
        include: Glob patterns on parameter names; a parameter needs to match one.
        exclude: Glob patterns on parameter names; takes precedence.

    Returns:
        Parameters by name, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: If an ``include`` pattern matches nothing, nothing is left, or what is left can't be set to zero in
            place: two parameters share memory, or one is float8.

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
    unprunable = unprunable_weights(model, candidates)
    candidates = {name: p for name, p in candidates.items() if p.is_floating_point()}
    matched = {
        pattern: [name for name, p in candidates.items() if matches(aliases[id(p)], pattern)]
        for pattern in (*include, *exclude)
    }
    for pattern in include:
        if not matched[pattern] and pattern != "*":
            found = {name: why for name, why in unprunable.items() if matches([name], pattern)}
            reason = f": {listed(found)}" if found else nearest(pattern, names)
            raise ValueError(f"include pattern '{pattern}' matches no prunable parameter{reason}")
    for pattern in exclude:
        if not matched[pattern] and not any(matches([name], pattern) for name in unprunable):
            warn(f"exclude pattern '{pattern}' matches no prunable parameter{nearest(pattern, names)}")
    included = {name for pattern in include for name in matched[pattern]}
    excluded = {name for pattern in exclude for name in matched[pattern]}
    selected = {name: p for name, p in candidates.items() if name in included - excluded}
    unprunable = {
        name: why
        for name, why in unprunable.items()
        if any(matches([name], pattern) for pattern in include)
        and not any(matches([name], pattern) for pattern in exclude)
        and not any(other.startswith(sources(name)) for other in selected)
    }
    if not sum(p.numel() for p in _sized(selected)):
        raise ValueError(
            f"nothing to prune in {type(model).__name__} with include={list(include)}, exclude={list(exclude)}: "
            "candidates are the weights of Conv*, Linear, recurrent and attention layers; "
            f"name any other parameter in full in include{f'; {listed(unprunable)}' if unprunable else ''}"
        )
    check_storage(selected)
    if unprunable:
        warn(f"left dense: {listed(unprunable)}; or say so with exclude")
    return selected


def _sized(selected: dict[str, nn.Parameter]) -> Iterator[Tensor]:
    return (parameter for _, parameter in _usable(selected.items()))
