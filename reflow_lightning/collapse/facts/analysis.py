"""Everything that is known of a graph: its values on an example, its bounds, its channels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.facts.bounds import BoundsInterpreter
from reflow_lightning.collapse.facts.channels import ChannelInterpreter
from reflow_lightning.collapse.facts.groups import Channels
from reflow_lightning.collapse.facts.intervals import Bounds, clean
from reflow_lightning.collapse.facts.operator import operator_of
from reflow_lightning.collapse.faults import Faults
from reflow_lightning.collapse.graph.running import StepFailedError, attempted, in_order, undisturbed
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.running.arguments import Arguments
from reflow_lightning.running.compat.torch import tree_leaves, tree_map_only
from reflow_lightning.running.samples import first_sample


class Analysis:
    """What is known of a graph as it is now; worked out when it is first asked for.

    Args:
        traced: The graph.
        inputs: What it is called with; the first is the example that tells the shapes.
        observes: Whether the inputs of activation functions are taken to lie between those that were observed.
        faults: Where errors of our own are kept.
        splits_sums: Whether channels may be missing in one operand of a sum, which takes further steps in the graph.

    Example:
        >>> from torch import nn
        >>> from reflow_lightning.collapse.graph.tracing import trace
        >>> analysis = Analysis(trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), [(torch.ones(3, 2),)])
        >>> [tuple(value.shape) for value in analysis.values.values()]
        [(1, 2), (1, 2), (1, 2), (1, 2)]
    """

    def __init__(
        self,
        traced: fx.GraphModule,
        inputs: Sequence[Arguments],
        observes: bool = False,
        faults: Faults | None = None,
        splits_sums: bool = True,
    ) -> None:
        self.traced = traced
        self.faults = Faults() if faults is None else faults
        self.inputs = inputs
        self.observes = observes
        self.splits_sums = splits_sums
        self.steps = Steps(traced)

    @cached_property
    def values(self) -> dict[fx.Node, Any]:
        """What each step puts out for one sample, if the graph does the same on one; else for the whole example."""
        example = self.inputs[0]
        values = record(self.traced, example)
        one = first_sample(example)
        with contextlib.suppress(StepFailedError):  # one that can't do with one sample
            of_one = values if _shapes(one) == _shapes(example) else record(self.traced, one)
            values = of_one if all(_is_alike(values[node], of_one[node]) for node in values) else values
        for node, value in values.items():
            node.meta["ndim"] = value.ndim if isinstance(value, Tensor) else None
        return values

    @cached_property
    def bounds(self) -> dict[fx.Node, Any]:
        """Bounds of each step's output."""
        observed = observe(self.traced, self.inputs, self.dims) if self.observes else {}
        return BoundsInterpreter(self.traced, self.values, observed, self.faults).find()

    @cached_property
    def channels(self) -> Channels:
        """The channels of each step's output."""
        bounds = self.bounds if self.splits_sums else {}  # which tell what is constant in an operand
        return ChannelInterpreter(self.traced, self.values, bounds, self.faults).follow()

    @cached_property
    def dims(self) -> dict[fx.Node, int]:
        """The channel dimension of each activation function."""
        channels = ChannelInterpreter(self.traced, self.values, {}, self.faults).follow()
        found = {}
        for node in self.traced.graph.nodes:
            value, given = self.values[node], node.args[0] if node.args else None
            if not operator_of(self.steps, node).is_activation or not isinstance(value, Tensor) or not value.ndim:
                continue
            if (axis := channels.axis(node)) is not None:
                found[node] = axis.dim
                continue
            told = operator_of(self.steps, given).channel_dim(value.ndim) if isinstance(given, fx.Node) else None
            found[node] = told if told is not None else 1 if value.ndim in (2, 4, 5) else value.ndim - 1
        return found


def _shapes(inputs: Arguments) -> list[Any]:
    return [leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(inputs)]


def _is_alike(some: Any, one: Any) -> bool:
    """Whether outputs differ at most in the size of the first dimension."""
    leaves, others = tree_leaves(some), tree_leaves(one)
    pairs = [(a, b) for a, b in zip(leaves, others, strict=False) if isinstance(a, Tensor)]
    return len(leaves) == len(others) and all(isinstance(b, Tensor) and a.shape[1:] == b.shape[1:] for a, b in pairs)


class _Recorder(fx.Interpreter):
    """Hands what each step puts out to a listener."""

    def __init__(self, traced: fx.GraphModule, listener: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(traced)
        self.extra_traceback = False
        self.listener = listener

    def run_node(self, n: fx.Node) -> Any:
        found = attempted(super().run_node, n)
        self.listener(n, found)
        return found


@torch.no_grad()
def record(traced: fx.GraphModule, inputs: Arguments) -> dict[fx.Node, Any]:
    """What each step puts out; of tensors only shape and type, without memory.

    Example:
        >>> from torch import nn
        >>> from reflow_lightning.collapse.graph.tracing import trace
        >>> values = record(trace(nn.Sequential(nn.Linear(2, 3))), (torch.ones(1, 2),))
        >>> [tuple(value.shape) for value in values.values()]
        [(1, 2), (1, 3), (1, 3)]
    """
    values: dict[fx.Node, Any] = {}

    def keep(node: fx.Node, value: Any) -> None:
        values[node] = tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), value)

    with undisturbed(traced):
        _Recorder(traced, keep).run(*in_order(traced, inputs))
    return values


@torch.no_grad()
def observe(traced: fx.GraphModule, inputs: Sequence[Arguments], dims: Mapping[fx.Node, int]) -> dict[fx.Node, Bounds]:
    """The least and the greatest value of each channel that reach the activation functions.

    Args:
        traced: The graph.
        inputs: What it is called with.
        dims: The channel dimension of each activation function.

    Returns:
        Bounds of what is given to them, with size 1 in all other dimensions.
    """
    found: dict[fx.Node, Bounds] = {}
    wanted = {node.args[0]: dim for node, dim in dims.items() if node.args and isinstance(node.args[0], fx.Node)}

    def take_in(node: fx.Node, value: Any) -> None:
        if node not in wanted or not isinstance(value, Tensor):
            return
        others = [d for d in range(value.ndim) if d != wanted[node] % value.ndim]
        low, high = value.amin(others, keepdim=True).double().cpu(), value.amax(others, keepdim=True).double().cpu()
        if node in found:
            low, high = low.minimum(found[node].low), high.maximum(found[node].high)
        found[node] = clean(low, high)

    for given in inputs:
        with undisturbed(traced):
            _Recorder(traced, take_in).run(*in_order(traced, given))
    return found
