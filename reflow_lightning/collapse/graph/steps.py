"""The steps of a traced graph, by one name for a module, a function and a method that do the same."""

from __future__ import annotations

import builtins
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from reflow_lightning.collapse.graph.kind import FUNCTIONS, KINDS, MODULES, OPAQUE, Kind, is_known
from reflow_lightning.running.compat.hooks import has_hooks
from reflow_lightning.running.compat.torch import NATIVE_FUNCTIONS, own_parameters

_OWNERS = (operator, builtins, torch, functional, NATIVE_FUNCTIONS)


class Steps:
    """The steps of a graph by name, and their modules.

    Args:
        traced: The graph.

    Attributes:
        at: The step that is looked at, or was when something failed, if there is one.

    Example:
        >>> from torch import nn
        >>> from reflow_lightning.collapse.graph.tracing import trace
        >>> traced = trace(nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.ReLU()))
        >>> steps = Steps(traced)
        >>> [steps.name(node) for node in traced.graph.nodes]
        ['placeholder', 'linear', 'identity', 'relu', 'output']
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.at: fx.Node | None = None
        self.modules = dict(traced.named_modules())
        self._calls = Counter(node.target for node in traced.graph.nodes if node.op in ("call_module", "get_attr"))
        held = [id(p) for module in traced.modules() for p in own_parameters(module).values()]
        got = [id(self.value(node)) for node in traced.graph.nodes if node.op == "get_attr"]
        self._holders = Counter([*held, *got])

    def __iter__(self) -> Iterator[Any]:
        """The steps as they are now, in order."""
        for node in list(self.traced.graph.nodes):
            self.at = node
            yield node
        self.at = None

    def module(self, node: fx.Node) -> Any:
        """The module that a step calls."""
        return self.modules[str(node.target)]

    def value(self, node: fx.Node) -> Any:
        """The parameter, buffer or other attribute that a step gets."""
        found: Any = self.traced
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found

    def name(self, node: fx.Node) -> str:
        """What a step does; ``"opaque"`` for what is not understood, used several times or shares its parameters."""
        if node.op == "call_module":
            return self._of_module(self.module(node), node)
        if node.op == "call_function":
            return _of_function(node)
        if node.op == "call_method":
            method = str(node.target)
            return FUNCTIONS[method].called(method, node) if method in FUNCTIONS else OPAQUE
        return node.op

    def kind(self, node: fx.Node) -> Kind:
        """The family of a step."""
        return KINDS[self.name(node)]

    def function(self, node: fx.Node) -> Callable[..., Any]:
        """What runs a step, given its arguments."""
        if node.op == "call_module":
            found: Callable[..., Any] = self.module(node)
            return found
        if callable(node.target):
            return node.target
        name = str(node.target)
        return lambda first, *rest, **kwargs: getattr(first, name)(*rest, **kwargs)

    def is_shared(self, node: fx.Node) -> bool:
        """Whether other steps call the same module or get the same attribute, by this name or another."""
        if node.op != "get_attr":
            return self._calls[node.target] > 1
        held_twice = self._holders[id(self.value(node))] > 2  # here, and where it belongs
        *holders, target = accumulate(str(node.target).split("."), "{}.{}".format)
        return self._calls[target] > 1 or held_twice or any(self._calls[holder] for holder in holders)

    def _of_module(self, module: Any, node: fx.Node) -> str:
        """The name of a module of torch that is called with one argument, and whose parameters are its own."""
        name = type(module).__name__
        if not is_known(module):
            return OPAQUE
        own = list(own_parameters(module).values())
        if node.kwargs or len(node.args) != 1 or any(not p.is_floating_point() for p in own):
            return OPAQUE
        if own and (self.is_shared(node) or any(self._holders[id(p)] > 1 for p in own)):
            return OPAQUE
        if hasattr(module, "parametrizations") or has_hooks(module):
            return OPAQUE
        return MODULES[name].modules[name] if MODULES[name].fits(module) else OPAQUE


def _of_function(node: fx.Node) -> str:
    """The name of a function, if it is torch's or Python's; a user's may do something else under the same name."""
    own = str(getattr(node.target, "__name__", OPAQUE))
    name = own.lstrip("_")
    if name not in FUNCTIONS:
        return OPAQUE
    is_torchs = any(getattr(owner, own, None) is node.target for owner in _OWNERS)
    package = str(getattr(node.target, "__module__", ""))
    return FUNCTIONS[name].called(name, node) if is_torchs or package.startswith(FUNCTIONS[name].packages) else OPAQUE


def after_inputs(traced: fx.GraphModule) -> set[fx.Node]:
    """The steps that have to do with an input: only these put out one value a sample."""
    found: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found
