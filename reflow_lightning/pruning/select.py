"""Which parameters may be pruned: by module type, then by name pattern."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from reflow_lightning.layers import Inventory
from reflow_lightning.pruning.storage import check_storage
from reflow_lightning.pruning.unprunable import UNKNOWN_REMEDY, sources, unknown_weights, unprunable_weights
from reflow_lightning.running.compat.torch import COMPILED
from reflow_lightning.running.names import Patterns, as_patterns, few, few_reasons, instead, matches, matches_any
from reflow_lightning.running.processes import warn


def _aliases(model: nn.Module, known: Inventory) -> dict[int, list[str]]:
    """Every name of every parameter: a tied parameter has several, also one in a compiled module or under a norm."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        if (plain := name.replace(f"{COMPILED}.", "")) != name:  # what torch.compile puts before the names
            names[id(parameter)].append(plain)
    for name, owned in known.weights.items():
        if owned.computed is not None:
            names[id(owned.parameter)].append(name)
    return names


def _usable(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in parameters:
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"parameter '{name}' is not initialised yet: run one forward pass before pruning")
        if parameter.is_meta:
            raise ValueError(f"parameter '{name}' has no values (device 'meta'): load the weights before pruning")
        yield name, parameter


def select(model: nn.Module, include: Patterns = ("*",), exclude: Patterns = ()) -> dict[str, nn.Parameter]:
    """Select the parameters that may be pruned.

    Candidates are the matrices of every known layer (`reflow_lightning.layers.layer_of`), frozen ones too: of linear
    and convolution layers, of recurrent cells and of attention projections. Biases, norms and embeddings are none. A
    pattern other than ``"*"`` also selects the matrices of unknown layers that it matches; and if it matches no matrix
    at all, the parameters that it names, such as ``"*.bias"``. A parameter's full name always selects it. A warning
    names what stays dense although it is a matrix: quantized and parametrized weights, and matrices of unknown layers.

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
    known = Inventory.of(model)
    aliases = _aliases(model, known)
    prunable = known.prunable
    parameters = dict(model.named_parameters())
    of_known = {name: p for name, p in parameters.items() if id(p) in prunable}
    unknown = unknown_weights(known)
    wanted = {*of_known, *unknown, *include}
    unprunable = unprunable_weights(known, {name: p for name, p in parameters.items() if name in wanted})
    of_unknown = {name: why for name, why in unknown.items() if name not in unprunable}

    def named(pattern: str) -> list[str]:
        """The parameters that a pattern matches."""
        return [n for n, p in parameters.items() if p.is_floating_point() and matches(aliases[id(p)], pattern)]

    def included_by(pattern: str) -> list[str]:
        """The parameters that a pattern selects: its own name, else matrices, else what it names otherwise."""
        found = named(pattern)
        if any(pattern in aliases[id(parameters[name])] for name in found):
            return found
        matrices = [name for name in found if name in of_known or (name in of_unknown and pattern != "*")]
        return matrices if matrices or matches(unprunable, pattern) or pattern == "*" else found

    by_pattern = {pattern: included_by(pattern) for pattern in include}
    excluding = {pattern: named(pattern) for pattern in exclude}
    names = [name for group in aliases.values() for name in group]
    for pattern in include:
        if not by_pattern[pattern] and pattern != "*":
            found = {name: why for name, why in unprunable.items() if matches([name], pattern)}
            reason = f": {few_reasons(found)}" if found else _instead(pattern, names, of_known)
            raise ValueError(f"include pattern '{pattern}' matches no prunable parameter{reason}")
    for pattern in exclude:
        if not excluding[pattern] and not matches(unprunable, pattern):
            warn(f"exclude pattern '{pattern}' matches no prunable parameter{_instead(pattern, names, of_known)}")
    included = {name for pattern in include for name in by_pattern[pattern]}
    excluded = {name for pattern in exclude for name in excluding[pattern]}
    selected = {name: p for name, p in parameters.items() if name in included - excluded}
    left = {
        name: why
        for name, why in (unprunable | of_unknown).items()
        if name not in selected
        and matches_any(name, include)
        and not matches_any(name, exclude)
        and not (name in unprunable and any(other.startswith(sources(name)) for other in selected))
    }
    if not sum(p.numel() for p in _sized(selected)):
        raise ValueError(
            f"nothing to prune in {type(model).__name__} with include={list(include)}, exclude={list(exclude)}: "
            "candidates are the weights of linear, convolution, recurrent and attention layers, and of types that are "
            f"registered with layer_of; name any other parameter in include{f'; {few_reasons(left)}' if left else ''}"
        )
    check_storage(selected)
    if left:
        remedy = "" if left.keys().isdisjoint(of_unknown) else UNKNOWN_REMEDY
        warn(f"left dense: {few_reasons(left)}{remedy}; or say so with exclude")
    return selected


def _instead(pattern: str, names: Iterable[str], prunable: Iterable[str]) -> str:
    """What to write for a pattern that matches nothing: what is like it, else what there is."""
    return instead(pattern, names) or f"; there are {few(prunable)}"


def _sized(selected: dict[str, nn.Parameter]) -> Iterator[Tensor]:
    return (parameter for _, parameter in _usable(selected.items()))
