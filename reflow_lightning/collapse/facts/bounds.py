"""Between which values does each activation of a network lie, for every input?

An activation whose bounds coincide is constant. That is known from the weights alone, exactly, position by position, so
that the borders of a padded convolution are seen as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from reflow_lightning.collapse.facts.intervals import Bounds, has_bounds
from reflow_lightning.collapse.facts.operator import OperatorInterpreter, operator_of
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.faults import Faults


class BoundsInterpreter(OperatorInterpreter):
    """Bounds of every step of a graph.

    Args:
        traced: The graph.
        values: What each step puts out for some input; only the shapes count, and what is no tensor.
        observed: Bounds of some steps' outputs that are known otherwise, as by measurement; they need to broadcast.
        faults: Where errors of our own are kept.

    Attributes:
        found: Bounds by step; of several outputs a tuple or list of them.

    Example:
        >>> import torch
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
        super().__init__(traced, values, faults)
        self.observed = observed
        self._numbers: set[fx.Node] = set()  # that come from arguments: they may be others the next time

    def find(self) -> dict[fx.Node, Any]:
        """Bounds by step."""
        self.go()
        return self.found

    def understood(self, step: Step) -> Any:
        """The bounds of a step, from the bounds of the steps before."""
        numbers = not self._numbers.isdisjoint(step.node.all_input_nodes)
        if not isinstance(step.value, Tensor) and (numbers or step.node.op == "placeholder"):
            self._numbers.add(step.node)
        if numbers or not (has_bounds((step.args, step.kwargs)) or step.node.op == "get_attr"):
            return self.otherwise(step)
        return self._observed(step, operator_of(self.steps, step.node).bounds(step))

    def otherwise(self, step: Step) -> Any:
        """No more than was observed."""
        return self._observed(step, step.nothing)

    def _observed(self, step: Step, found: Any) -> Any:
        observed = self.observed.get(step.node)
        return found.within(*observed) if observed is not None and isinstance(found, Bounds) else found
