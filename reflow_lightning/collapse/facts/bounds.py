"""Between which values does each activation of a network lie, whatever the input is?

An activation whose bounds coincide is constant. That is known from the weights alone, exactly, position by position, so
that the borders of a padded convolution are seen as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.edits import label
from reflow_lightning.collapse.facts.intervals import Bounds, has_bounds, unknown
from reflow_lightning.collapse.facts.operator import Step, operator_of
from reflow_lightning.collapse.faults import Faults
from reflow_lightning.collapse.graph.running import StepFailedError
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.running.compat.torch import tree_map_only


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
        step = Step(self.steps, node, self.values)
        numbers = not self._numbers.isdisjoint(node.all_input_nodes)
        if not isinstance(step.value, Tensor) and (numbers or node.op == "placeholder"):
            self._numbers.add(node)
        if numbers or not (has_bounds((args, kwargs)) or node.op == "get_attr"):
            return step.nothing
        return operator_of(self.steps, node).bounds(step, args, kwargs)
