"""From a model to a `torch.fx` graph of it, with what can't be looked into as single steps."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import fx, nn

from reflow_lightning.running.copying import dense_copy


class NotTraceableError(ValueError):
    """The forward pass of a model can't be written as a graph."""


class _Tracer(fx.Tracer):
    """Remembers in which module tracing failed, and does not look into those named."""

    def __init__(self, opaque: set[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)  # the innermost is the first to notice
            raise


def trace(model: nn.Module, arguments: int = 1) -> fx.GraphModule:
    """A copy of a model in eval mode as a graph, whose steps change no tensor in place.

    A submodule whose forward pass can't be traced, as it branches on values or loops over a tensor, becomes one step.

    Args:
        model: Any module.
        arguments: How many positional arguments its forward pass gets; the others keep their defaults.

    Raises:
        NotTraceableError: If the model's own forward pass can't be traced.

    Example:
        >>> graph = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)))
        >>> [node.op for node in graph.graph.nodes]
        ['placeholder', 'call_module', 'call_module', 'output']
    """
    copy = dense_copy(model).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    opaque: set[str] = set()
    while True:
        tracer = _Tracer(opaque)
        try:
            graph = tracer.trace(copy, concrete_args=_defaults(copy, arguments))
            break
        except Exception as error:
            if tracer.failed is None or tracer.failed in opaque:
                raise NotTraceableError(
                    f"the forward pass of {type(model).__name__} can't be traced by torch.fx ({error}): collapse its "
                    "parts, or move what branches on values into a module of its own, which is then left as it is"
                ) from error
            opaque.add(tracer.failed)
    traced = fx.GraphModule(copy, graph, type(model).__name__)
    traced.eval()
    _out_of_place(traced)
    return traced


def _defaults(model: nn.Module, arguments: int) -> dict[str, Any]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    return {
        p.name: p.default
        for p in parameters[arguments:]
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.default is not p.empty
    }


_OUT_OF_PLACE = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}


def _out_of_place(traced: fx.GraphModule) -> None:
    """Let every step make a new tensor, and give it to those that would have seen the changed one."""
    for module in traced.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        if _make_new(node) and node.args and isinstance(node.args[0], fx.Node):
            node.args[0].replace_all_uses_with(node, lambda user, node=node: order[user] > order[node])  # type: ignore[misc]
    traced.recompile()


def _make_new(node: fx.Node) -> bool:
    """Replace a step that changes its argument by one that does not; whether it was such a step."""
    if node.op == "call_method" and isinstance(node.target, str):
        if not node.target.endswith("_") or node.target.endswith("__"):
            return False
        node.target = node.target[:-1]
        return True
    if node.op != "call_function" or not callable(node.target):
        return False
    name = getattr(node.target, "__name__", "")
    if node.target in _OUT_OF_PLACE:
        node.target = _OUT_OF_PLACE[node.target]
        return True
    if name.endswith("_") and not name.endswith("__") and hasattr(torch, name[:-1]):
        node.target = getattr(torch, name[:-1])
        return True
    return _without_flag(node)


def _without_flag(node: fx.Node) -> bool:
    """Set ``inplace=False`` where it is True, given by name or by position."""
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a builtin function
        return False
    position = names.index("inplace") if "inplace" in names else len(node.args)
    if position >= len(node.args) or node.args[position] is not True:
        return False
    node.args = (*node.args[:position], False, *node.args[position + 1 :])
    return True
