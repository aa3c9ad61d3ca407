"""What is known so far while the channels of a graph are followed, and the ways to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from reflow_lightning.collapse.facts.groups import Axis, Channels, Groups, along, labels_of, rows, spread
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.steps import Steps, after_inputs
from reflow_lightning.running.compat.torch import tree_map_only


class Following:
    """The channels of the steps before, and the numbers to give to the next one.

    Args:
        steps: The graph.
        bounds: Bounds by step.
        labels: The numbers that have been given, by step; it grows.

    Attributes:
        found: The channels.
        varying: The steps that have to do with an input.
    """

    def __init__(self, steps: Steps, bounds: Mapping[fx.Node, Any], labels: dict[fx.Node, Any]) -> None:
        self.bounds = bounds
        self.found = Channels(labels=labels)
        self.varying = after_inputs(steps.traced)

    @property
    def groups(self) -> Groups:
        """Which channels are the same."""
        return self.found.groups

    def along(self, numbers: Any) -> Axis | None:
        """The channel dimension of an argument, if there is one."""
        return along(self.groups.find_all(numbers)) if isinstance(numbers, Tensor) else None

    def pinned(self, value: Any, reason: str) -> Any:
        """A number for everything, which stays."""
        number = self.groups.new(1)
        self.groups.pin(number, reason)
        return tree_map_only(Tensor, lambda t: number[0].expand(t.shape), value)

    def opaque(self, step: Step, reason: str) -> Any:
        """A number for all that a step puts out, if it is not looked into; the channels of its arguments stay too."""
        for numbers in labels_of((step.args, step.kwargs)):
            self.groups.pin(numbers, reason)
        return self.pinned(step.value, reason)

    def axis(self, numbers: Tensor, dim: int, reason: str) -> Tensor | None:
        """The numbers along a dimension, if that is the channel dimension; if not, they stay."""
        numbers = self.groups.find_all(numbers)
        first = rows(numbers, dim)
        if bool((first == first[:, :1]).all()):
            return first[:, 0]
        self.groups.pin(numbers, reason)
        return None

    def channelwise(self, step: Step) -> Any:
        """The channels of a step that works within each channel of its first argument, which are dimension 1."""
        given, value, reason = step.first, step.value, step.node.name
        has_channels = isinstance(given, Tensor) and given.ndim > 1 and given.ndim == value.ndim
        numbers = self.axis(given, 1, reason) if has_channels else None
        return self.opaque(step, reason) if numbers is None else spread(Axis(1, numbers), value.shape)
