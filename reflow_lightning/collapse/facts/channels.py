"""Which channels of a network can only be removed together, as in one sum or in one depthwise convolution.

Every element of every activation carries the number of its channel through the network: convolutions and linear layers
give new numbers, an operation that moves values moves numbers, and where two meet, as in a residual addition, they
become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import Channels, labels_of
from reflow_lightning.collapse.facts.operator import OperatorInterpreter, operator_of
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.faults import Faults


class ChannelInterpreter(OperatorInterpreter):
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
        super().__init__(traced, values, faults)
        self.following = Following(self.steps, bounds, self.found)

    def follow(self) -> Channels:
        """The channels of all steps."""
        self.go()
        return self.following.found

    def understood(self, step: Step) -> Any:
        """The numbers of a step's output, from the numbers of the steps before."""
        if step.node.op == "get_attr" or labels_of((step.args, step.kwargs)):
            return operator_of(self.steps, step.node).channels(step, self.following)
        return self.following.pinned(step.value, "the input" if step.node.op == "placeholder" else step.node.name)

    def otherwise(self, step: Step) -> Any:
        """All stay."""
        return self.following.opaque(step, step.node.name)
