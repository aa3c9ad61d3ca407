"""What is known of a family of steps: the one class to write for an operator that shall be understood."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.edits import label
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.removal import Shrinking
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.faults import Faults
from reflow_lightning.collapse.graph.kind import Kind
from reflow_lightning.collapse.graph.running import StepFailedError
from reflow_lightning.collapse.graph.steps import Steps


class Operator(Kind):
    """A family of steps: between which values the outputs lie, what becomes of channels, how a step shrinks.

    By itself it knows nothing of its steps: each may put out anything, and all of its channels stay.

    Attributes:
        is_activation: Whether the steps are functions of one value.
    """

    is_activation: bool = False

    def bounds(self, step: Step) -> Any:
        """The bounds of the output, from the bounds of the arguments; at least one has some."""
        return step.nothing

    def channels(self, step: Step, follow: Following) -> Any:
        """The numbers of the output's channels, from the numbers of the arguments; at least one has some."""
        return follow.opaque(step, step.node.name)

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Change a step, and its module, so that channels are missing. Most need no change."""

    def rescale(self, module: Any, slope: Tensor, offset: Tensor) -> bool:
        """Let a module multiply its output channels by a slope and add an offset as well; whether it can."""
        return False

    def channel_dim(self, ndim: int) -> int | None:
        """The channel dimension of an output of so many, if the operator has one."""
        return None


def operator_of(steps: Steps, node: fx.Node) -> Operator:
    """The operator of a step."""
    return cast("Operator", steps.kind(node))


class OperatorInterpreter(fx.Interpreter):
    """Finds something out about each step of a graph, going on from the steps before.

    Args:
        traced: The graph.
        values: What each step puts out for some input; only the shapes count, and what is no tensor.
        faults: Where errors of our own are kept.

    Attributes:
        found: What was found out, by step.
    """

    def __init__(self, traced: fx.GraphModule, values: Mapping[fx.Node, Any], faults: Faults | None) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.extra_traceback = False  # an error is raised as it is
        self.faults = Faults() if faults is None else faults
        self.steps = Steps(traced)
        self.values = values
        self.found: dict[fx.Node, Any] = {}

    @abstractmethod
    def understood(self, step: Step) -> Any:
        """What an operator says of a step."""

    @abstractmethod
    def otherwise(self, step: Step) -> Any:
        """The same of a step that is not understood."""

    @torch.no_grad()
    def go(self) -> None:
        """Go through the graph."""
        self.run(*(None for node in self.steps.traced.graph.nodes if node.op == "placeholder"))

    def run_node(self, n: fx.Node) -> Any:
        """Look at one step."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        step = Step(self.steps, n, self.values, args, kwargs)
        try:
            self.found[n] = self.understood(step)
        except StepFailedError:  # it can't do with what takes the place of values
            self.found[n] = self.otherwise(step)
        except Exception as error:
            self.faults.note(error, label(n))
            self.found[n] = self.otherwise(step)
        return self.found[n]
