"""Sizes of tensors, where they are written into a graph, or computed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from reflow_lightning.collapse.graph.steps import Steps


def is_computed_with(steps: Steps, values: Mapping[fx.Node, Any], node: fx.Node, dim: int, ndim: int) -> bool:
    """Whether a size is put out, or is used for anything but the sizes of a view.

    Args:
        steps: The graph.
        values: What each step puts out for some input.
        node: The step that asks for sizes.
        dim: The dimension whose size it is about.
        ndim: How many dimensions there are.
    """
    waiting = _telling(steps, values, node, dim, ndim)
    seen = set(waiting)
    while waiting:
        for user in waiting.pop().users:
            if user.op == "output" or (isinstance(values[user], Tensor) and not steps.kind(user).moves):
                return True
            if user not in seen and _is_size(values[user]):
                seen.add(user)
                waiting.append(user)
    return False


def _telling(steps: Steps, values: Mapping[fx.Node, Any], node: fx.Node, dim: int, ndim: int) -> list[fx.Node]:
    """The steps that put out the size in this dimension."""
    if not isinstance(values[node], tuple):
        asked = node.args[1] if steps.name(node) == "size" else dim
        return [node] if not isinstance(asked, int) or asked % ndim == dim else []
    found = []
    for user in node.users:
        index: Any = user.args[1] if steps.name(user) == "getitem" else slice(None)
        picked = range(ndim)[index] if isinstance(index, (int, slice)) else range(ndim)
        if dim in (picked if isinstance(picked, range) else (picked,)):
            found.append(user if steps.name(user) == "getitem" else node)
    return found


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, tuple) and all(map(_is_size, value)))


def names_places(name: str, node: fx.Node) -> bool:
    """Whether a step picks values by their numbers, or names sizes where nobody would correct them."""
    if name != "getitem":
        return name == "narrow" or bool(node.kwargs)
    index = node.args[1]
    return any(isinstance(part, (list, fx.Node)) for part in (index if isinstance(index, tuple) else (index,)))


def size_given_by(steps: Steps, node: fx.Node, dim: int) -> tuple[fx.Node, int] | None:
    """The tensor whose size a view names for a dimension, and which of its sizes that is; else ``None``.

    Args:
        steps: The graph.
        node: The view.
        dim: The dimension of its output.
    """
    given: Any = node.args[1:]
    if len(given) == 1:
        given = given[0]
    if isinstance(given, (tuple, list)):
        given = given[dim] if dim < len(given) else None
        return _asked(steps, given) if isinstance(given, fx.Node) else None
    return (given.all_input_nodes[0], dim) if isinstance(given, fx.Node) and _is_whole(steps, given) else None


def _asked(steps: Steps, node: fx.Node) -> tuple[fx.Node, int] | None:
    """The tensor of whose sizes a step puts out one, and which."""
    if steps.name(node) == "size" and len(node.args) == 2 and isinstance(node.args[1], int):
        source, index = node.all_input_nodes[0], node.args[1]
    elif steps.name(node) == "getitem" and _is_whole(steps, node.all_input_nodes[0]) and isinstance(node.args[1], int):
        source, index = node.all_input_nodes[0].all_input_nodes[0], node.args[1]
    else:
        return None
    ndim = source.meta["ndim"]
    return None if ndim is None else (source, index % ndim)


def _is_whole(steps: Steps, node: fx.Node) -> bool:
    """Whether a step puts out all sizes of a tensor."""
    is_shape = steps.name(node) == "getattr" and node.args[1:] == ("shape",)
    return is_shape or (steps.name(node) == "size" and len(node.args) == 1 and not node.kwargs)


def size_at(numbers: Tensor, dim: int) -> int:
    """The size in a dimension, counted from the last, with which a tensor takes part in broadcasting."""
    return numbers.shape[dim] if -dim <= numbers.ndim else 1


def pad_along(amounts: Sequence[int], ndim: int, dim: int) -> tuple[int, int]:
    """How much `torch.nn.functional.pad` adds before and after in a dimension.

    Example:
        >>> pad_along((1, 1, 2, 3), ndim=4, dim=2), pad_along((1, 1, 2, 3), ndim=4, dim=1)
        ((2, 3), (0, 0))
    """
    start = 2 * (ndim - 1 - dim)
    return (amounts[start], amounts[start + 1]) if start + 1 < len(amounts) else (0, 0)
