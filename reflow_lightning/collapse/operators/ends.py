"""Where values come from and where they go; and steps that are not looked into."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from reflow_lightning.collapse.edits import owner, parameter_like
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.intervals import Bounds
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.removal import Shrinking
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import OPAQUE

_MOST = 1 << 20  # elements of a parameter that is used by itself, beyond which its channels are not followed


class Opaque(Operator):
    """A step that is not looked into. An input is one too."""

    operations: tuple[str, ...] = (OPAQUE, "placeholder")


class Output(Operator):
    """What the network puts out: all of its channels stay."""

    operations: tuple[str, ...] = ("output",)

    def channels(self, step: Step, follow: Following) -> Any:
        """See `Operator`."""
        return follow.opaque(step, "the network's output")


class Attribute(Operator):
    """A parameter, buffer or other value of the network that is used by itself."""

    operations: tuple[str, ...] = ("get_attr",)

    def bounds(self, step: Step) -> Any:
        """The value itself; as it is, if it is none that moves within an interval."""
        value = step.steps.value(step.node)
        if not isinstance(value, Tensor):
            return value
        value = value.cpu()
        return Bounds(value.double(), value.double()) if value.is_floating_point() else value

    def channels(self, step: Step, follow: Following) -> Any:
        """A number for each element: what it meets tells which are the same."""
        value = step.value
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        if value.numel() > _MOST or step.steps.is_shared(step.node):
            return follow.pinned(value, step.node.name)
        return follow.groups.new(value.numel()).view(value.shape)

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Leave the elements of those channels out."""
        stays, axis = shrinking.stays(node), shrinking.axes[node]
        if stays is None or axis is None:
            return
        holder, name = owner(shrinking.steps.traced, str(node.target))
        value: Tensor = getattr(holder, name)
        smaller = value.index_select(axis.dim, stays.nonzero().flatten().to(value.device))
        setattr(holder, name, parameter_like(smaller, value) if isinstance(value, nn.Parameter) else smaller)
