"""Arguments of a forward pass that a graph does not take: they are frozen at their defaults.

A forward pass that branches on a collection among them, or loops over it, can't be traced.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from torch import fx, nn


def frozen_arguments(model: nn.Module, passed: int) -> dict[str, Any]:
    """The defaults of the arguments that are not passed, by name.

    Args:
        model: Any module.
        passed: How many positional arguments its forward pass gets.

    Example:
        >>> frozen_arguments(nn.Upsample(scale_factor=2), 1), frozen_arguments(nn.MaxUnpool1d(2), 2)
        ({}, {'output_size': None})
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    return {
        p.name: p.default
        for p in parameters[passed:]
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.default is not p.empty
    }


def traceable(frozen: Mapping[str, Any]) -> dict[str, Any]:
    """Those with which `torch.fx` can trace; of a collection it would take all arguments apart."""
    return {name: value for name, value in frozen.items() if not isinstance(value, (tuple, list, dict))}


def freeze(graph: fx.Graph, frozen: Mapping[str, Any], passed: int) -> None:
    """Remove frozen arguments from a graph, with the steps that check their values: nobody shall pass any.

    Args:
        graph: Traced with those that are `traceable` as concrete arguments, which it numbers: ``mask_1``.
        frozen: All of them.
        passed: How many arguments are passed; they come first.
    """
    plain = traceable(frozen)
    for node in [node for node in graph.nodes if node.op == "placeholder"][passed:]:
        name = str(node.target)
        if name in frozen and name not in plain:  # traced without its value
            for user in list(node.users):
                _give(user, node, frozen[name])
            graph.erase_node(node)
        elif name.rpartition("_")[0] in plain:  # traced with it: only checks use this
            _erase(graph, node)


def _give(user: fx.Node, node: fx.Node, value: Any) -> None:
    """Let a step use a value in the place of another step's."""

    def replaced(given: fx.Node) -> Any:
        return value if given is node else given

    user.args = cast("tuple[Any, ...]", fx.map_arg(user.args, replaced))
    user.kwargs = cast("dict[str, Any]", fx.map_arg(user.kwargs, replaced))


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)
