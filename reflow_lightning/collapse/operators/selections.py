"""Steps that pick channels by their numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.edits import owner
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import Axis, spread
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.removal import Shrinking
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import words


class _Selection(Operator):
    """Steps whose arguments are a tensor, its channel dimension, and a buffer with numbers of channels."""

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        return step.rising() if step.reads_tensors and not step.kwargs else step.nothing

    def channels(self, step: Step, follow: Following) -> Any:
        """See `Operator`."""
        axis = None if step.kwargs else follow.along(step.first)
        where = step.node.args[2] if axis is not None else None
        if axis is None or not isinstance(where, fx.Node) or where.op != "get_attr" or step.steps.is_shared(where):
            return super().channels(step, follow)
        if step.args[1] % step.value.ndim != axis.dim:
            return super().channels(step, follow)
        return self.picked(step, follow, axis, step.steps.value(where).cpu())

    @abstractmethod
    def picked(self, step: Step, follow: Following, axis: Axis, index: Tensor) -> Any:
        """The channels of the output.

        Args:
            step: The step.
            follow: What is known so far.
            axis: The channels of the tensor.
            index: Places of some of these channels.
        """

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Correct the numbers of the channels."""
        axis, where = shrinking.axes[shrinking.inputs[node][0]], node.args[2]
        stays = torch.ones(0) if axis is None else shrinking.removal.keeps(axis.numbers)
        if bool(stays.all()) or not isinstance(where, fx.Node):  # as where it is not looked into
            return
        holder, name = owner(shrinking.steps.traced, str(where.target))
        index: Tensor = getattr(holder, name)
        places = stays.cumsum(0) - 1
        setattr(holder, name, places[index.cpu()][stays[index.cpu()]].to(index))


class IndexSelect(_Selection):
    """`torch.index_select`: channels that it does not pick can go."""

    functions: Mapping[str, str] = words("index_select")

    def picked(self, step: Step, follow: Following, axis: Axis, index: Tensor) -> Any:
        """The channels at these places."""
        return spread(Axis(axis.dim, axis.numbers[index]), step.value.shape)


class IndexAdd(_Selection):
    """What becomes of a sum from which channels are missing in one operand."""

    functions: Mapping[str, str] = words("index_add")

    def picked(self, step: Step, follow: Following, axis: Axis, index: Tensor) -> Any:
        """The channels of the first operand; where the second is added, both are the same."""
        follow.groups.unite(step.first.index_select(axis.dim, index), step.args[3])
        return step.first
