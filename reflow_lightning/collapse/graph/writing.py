"""Steps of a graph that write into a tensor, replaced by steps that make a new one."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from reflow_lightning.collapse.graph.steps import Steps

_NEW: Mapping[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def out_of_place(traced: fx.GraphModule) -> set[str]:
    """Let every step make a new tensor, and give it to those that would have seen the changed one.

    Args:
        traced: The graph, which is changed.

    Returns:
        The modules in which that can't be done: what they write to is a view of a tensor that others use, or there is
        no such step. The whole model is named ``""``.

    Example:
        >>> traced = fx.symbolic_trace(nn.Sequential(nn.ReLU(inplace=True)))
        >>> out_of_place(traced), traced.get_submodule("0").inplace
        (set(), False)
    """
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    steps, failed = Steps(traced), set()
    for node in traced.graph.nodes:
        if not _writes(traced, node) or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        written = node.args[0]
        if _is_seen_elsewhere(steps, written, node, order) or not _make_new(node):
            failed.add(_module_of(node))
        else:
            written.replace_all_uses_with(node, lambda user, node=node: order[user] > order[node])  # type: ignore[misc]
    for module in {steps.module(node) for node in traced.graph.nodes if node.op == "call_module"}:
        if _has_flag(module):
            module.inplace = False
    traced.recompile()
    return failed


def _has_flag(module: nn.Module) -> bool:
    return getattr(module, "inplace", False) is True and type(module).__module__.startswith("torch.nn")


def _writes(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a step changes its first argument."""
    if node.op == "call_module":
        return _has_flag(traced.get_submodule(str(node.target)))
    if node.op == "call_method":
        return _is_in_place(str(node.target)) and node.target != "requires_grad_"
    if node.op != "call_function":
        return False
    written = node.target in _NEW or _is_in_place(getattr(node.target, "__name__", ""))
    return written or bool(node.kwargs.get("inplace")) or _flag_position(node) is not None


def _is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _make_new(node: fx.Node) -> bool:
    """Replace a step that changes its argument by one that does not, if there is one."""
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op == "call_method":
        node.target = name[:-1]
        return callable(getattr(Tensor, name[:-1], None))
    if node.target in _NEW:
        node.target = _NEW[node.target]
    elif node.op == "call_function" and _is_in_place(name):
        new = getattr(torch, name[:-1], None) or getattr(functional, name[:-1], None)
        node.target = new or node.target
        return new is not None
    elif node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    elif (position := _flag_position(node)) is not None:
        node.args = (*node.args[:position], False, *node.args[position + 1 :])
    return True


def _flag_position(node: fx.Node) -> int | None:
    """Where ``inplace=True`` stands among the positional arguments, if it does."""
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a builtin function
        return None
    position = names.index("inplace") if "inplace" in names else len(node.args)
    return position if position < len(node.args) and node.args[position] is True else None


def _is_seen_elsewhere(steps: Steps, written: fx.Node, by: fx.Node, order: Mapping[fx.Node, int]) -> bool:
    """Whether something that shares memory with a tensor is used after it was written to."""
    first = written
    while _may_be_view(steps, first) and first.all_input_nodes:
        first = first.all_input_nodes[0]
    views, waiting = {first}, [first]
    while waiting:
        users = waiting.pop().users
        new = {user for user in users if order[user] < order[by] and _may_be_view(steps, user)} - views
        views |= new
        waiting += new
    return any(order[user] > order[by] for view in views - {written} for user in view.users)


def _may_be_view(steps: Steps, node: fx.Node) -> bool:
    return steps.name(node) in steps.kind(node).views


def _module_of(node: fx.Node) -> str:
    """The innermost module in whose forward pass a step is."""
    paths = ["", *(str(path) for path, _ in node.meta.get("nn_module_stack", {}).values())]
    return paths[-2] if node.op == "call_module" else paths[-1]
