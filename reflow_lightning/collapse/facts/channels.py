"""Which channels of a network can only be removed together: those of one sum, of one depthwise convolution, and so on.

Every element of every activation carries the number of its channel through the network: convolutions and linear layers
give new numbers, whatever moves values moves numbers, and where two meet, as in a residual addition, they become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from reflow_lightning.collapse.edits import label
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import Channels, labels_of
from reflow_lightning.collapse.facts.operator import Step, operator_of
from reflow_lightning.collapse.faults import Faults
from reflow_lightning.collapse.graph.running import StepFailedError
from reflow_lightning.collapse.graph.steps import Steps


class ChannelInterpreter(fx.Interpreter):
    """Follows the channels of a graph.

    Args:
        traced: The graph.
        values: What each step puts out for some input; only the shapes count, and what is no tensor.
        bounds: See `BoundsInterpreter`.
        faults: Where errors of our own are kept.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from reflow_lightning.collapse.graph.tracing import trace
        >>> traced = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> shapes = {node: torch.zeros(1, 3 if node.name in ("_0", "_1") else 2) for node in traced.graph.nodes}
        >>> channels = ChannelInterpreter(traced, shapes, {}).follow()
        >>> first, relu = (channels.labels[node].tolist() for node in list(traced.graph.nodes)[1:3])
        >>> first == relu
        True
    """

    def __init__(
        self,
        traced: fx.GraphModule,
        values: Mapping[fx.Node, Any],
        bounds: Mapping[fx.Node, Any],
        faults: Faults | None = None,
    ) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.extra_traceback = False  # an error is raised as it is
        self.faults = Faults() if faults is None else faults
        self.steps = Steps(traced)
        self.values = values
        self.following = Following(self.steps, bounds)

    def follow(self) -> Channels:
        """The channels of all steps."""
        self.run(*(None for node in self.steps.traced.graph.nodes if node.op == "placeholder"))
        return self.following.found

    def run_node(self, n: fx.Node) -> Any:
        """The numbers of a step's output, from those of the steps before."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        try:
            found = self._follow(n, args, kwargs)
        except StepFailedError:  # it can't do with numbers in the place of values
            found = self.following.opaque(args, kwargs, self.values[n], n.name)
        except Exception as error:
            self.faults.note(error, label(n))
            found = self.following.opaque(args, kwargs, self.values[n], n.name)
        self.following.found.labels[n] = found
        return found

    def _follow(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr" or labels_of((args, kwargs)):
            step = Step(self.steps, node, self.values)
            return operator_of(self.steps, node).channels(step, args, kwargs, self.following)
        return self.following.pinned(self.values[node], "the input" if node.op == "placeholder" else node.name)
