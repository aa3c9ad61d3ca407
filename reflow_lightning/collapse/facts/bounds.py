"""Between which values does each activation of a network lie, whatever the input is?

An activation whose bounds coincide is constant. That is known from the weights alone, exactly, position by position, so
that the borders of a padded convolution are seen as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from reflow_lightning.collapse.edits import label
from reflow_lightning.collapse.facts.intervals import (
    OF_PAIRS,
    Bounds,
    as_bounds,
    clean,
    of_activation,
    of_affine,
    of_batchnorm,
    unknown,
)
from reflow_lightning.collapse.faults import Faults
from reflow_lightning.collapse.graph.running import StepFailedError, attempted
from reflow_lightning.collapse.graph.steps import ACTIVATIONS, MOVES, PAIRS, POOLS, REDUCTIONS, SHAPES, Steps

_RISING = ("maximum", "minimum", "index_add")


class BoundsInterpreter(fx.Interpreter):
    """Bounds of every step of a graph.

    Args:
        traced: The graph.
        values: What each step puts out for some input; only the shapes count, and what is no tensor.
        observed: Bounds of some steps' outputs that are known otherwise, as by measurement; they need to broadcast.
        faults: Where errors of our own are kept.

    Attributes:
        found: Bounds by step; of several outputs a tuple or list of them.

    Example:
        >>> from torch import nn
        >>> from reflow_lightning.collapse.graph.tracing import trace
        >>> traced = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU6()))
        >>> shapes = {node: torch.zeros(1, 2) for node in traced.graph.nodes}
        >>> bounds = BoundsInterpreter(traced, shapes, {}).find()
        >>> [(b.low.min().item(), b.high.max().item()) for b in bounds.values()][:3]
        [(-inf, inf), (-inf, inf), (0.0, 6.0)]
    """

    def __init__(
        self,
        traced: fx.GraphModule,
        values: Mapping[fx.Node, Any],
        observed: Mapping[fx.Node, Bounds],
        faults: Faults | None = None,
    ) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.extra_traceback = False  # an error is raised as it is
        self.faults = Faults() if faults is None else faults
        self.steps = Steps(traced)
        self.values = values
        self.observed = observed
        self.found: dict[fx.Node, Any] = {}
        self._numbers: set[fx.Node] = set()  # that come from arguments: they may be others the next time

    @torch.no_grad()
    def find(self) -> dict[fx.Node, Any]:
        """Bounds by step."""
        self.run(*(None for node in self.steps.traced.graph.nodes if node.op == "placeholder"))
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        """The bounds of a step, from those of the steps before."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        nothing = tree_map_only(Tensor, unknown, self.values[n])
        try:
            found = self._bounds(n, args, kwargs)
        except StepFailedError:  # it can't do with infinite values, or other types
            found = nothing
        except Exception as error:
            self.faults.note(error, label(n))
            found = nothing
        if n in self.observed and isinstance(found, Bounds):
            found = found.within(*self.observed[n])
        self.found[n] = found
        return found

    def _bounds(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        name = self.steps.name(node)
        nothing = tree_map_only(Tensor, unknown, self.values[node])
        if name == "get_attr":
            value = self.steps.value(node)
            known = isinstance(value, Tensor) and value.is_floating_point()
            value = value.cpu() if isinstance(value, Tensor) else value
            return Bounds(value.double(), value.double()) if known else value
        numbers = not self._numbers.isdisjoint(node.all_input_nodes)
        if not isinstance(self.values[node], Tensor) and (numbers or node.op == "placeholder"):
            self._numbers.add(node)
        if numbers or name in SHAPES or name == "output" or not _has_bounds((args, kwargs)):
            return nothing
        run = self.steps.function(node)
        if name in ("conv", "linear"):
            return of_affine(self.steps.module(node), args[0]) if self._is_batched(name, node) else nothing
        if name == "batchnorm":
            return of_batchnorm(self.steps.module(node), args[0])
        if name == "prelu":
            of_module = node.op == "call_module"
            return of_activation(_prelu(self.steps.module(node)), (0.0,), args, kwargs) if of_module else nothing
        if name in MOVES or (name in POOLS and isinstance(nothing, Bounds)):
            return _each_end(run, args, kwargs, nothing)
        if not all(isinstance(self.values[given], Tensor) for given in node.all_input_nodes):
            return nothing  # a size, which may be another one for other inputs
        if name in ACTIVATIONS and isinstance(args[0] if args else kwargs.get("input"), Bounds):
            return of_activation(run, ACTIVATIONS[name], args, kwargs)
        if name in _RISING and not kwargs:
            return _each_end(run, args, kwargs, nothing)
        if name in REDUCTIONS and not (name == "sum" and _over_samples(args, kwargs)):
            return _each_end(run, args, kwargs, nothing)
        if name in PAIRS and not kwargs and isinstance(nothing, Bounds) and all(map(_has_value, args)):
            return OF_PAIRS[name](*map(as_bounds, args))
        return nothing

    def _is_batched(self, name: str, node: fx.Node) -> bool:
        ndim = self.values[node].ndim
        return ndim > 1 if name == "linear" else bool(ndim == self.steps.module(node).weight.ndim)


def _has_value(value: Any) -> bool:
    return isinstance(value, (Bounds, bool, int, float, Tensor))


def _prelu(module: Any) -> Callable[[Tensor], Tensor]:
    weight = module.weight.double().cpu()
    return lambda values: functional.prelu(values, weight)


def _over_samples(args: Any, kwargs: Any) -> bool:
    """Whether a sum goes over the first dimension, whose size may be another one for other inputs."""
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    given = args[0] if args else kwargs.get("input")
    if not isinstance(given, Bounds) or not given.low.ndim:
        return True
    return dims is None or any(d % given.low.ndim == 0 for d in ([dims] if isinstance(dims, int) else dims))


def _has_bounds(value: Any) -> bool:
    if isinstance(value, Bounds):
        return True
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, (tuple, list)) and any(map(_has_bounds, value))


def _end(value: Any, index: int) -> Any:
    if isinstance(value, Bounds):
        return value[index].contiguous()  # which a view needs
    if isinstance(value, (tuple, list)):
        return type(value)(_end(part, index) for part in value)
    return {key: _end(part, index) for key, part in value.items()} if isinstance(value, dict) else value


def _each_end(run: Callable[..., Any], args: Any, kwargs: Any, nothing: Any) -> Any:
    """Of a step that never falls where its input grows."""
    low, high = (attempted(run, *_end(args, index), **_end(kwargs, index)) for index in (0, 1))
    if isinstance(low, Tensor):
        return clean(low, high)
    if not isinstance(low, (tuple, list)) or not all(isinstance(part, Tensor) for part in low):
        return nothing
    return tuple(clean(a, b) for a, b in zip(low, high, strict=True))
