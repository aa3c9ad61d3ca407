"""Steps that pick channels by their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from reflow_lightning.collapse.edits import owner
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import Axis, spread
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.removal import Shrinking
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import words


class IndexSelect(Operator):
    """`torch.index_select` with numbers that are a buffer: nobody reads the channels that it does not pick."""

    functions: Mapping[str, str] = words("index_select")

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        return step.rising() if step.reads_tensors and not step.kwargs else step.nothing

    def channels(self, step: Step, follow: Following) -> Any:
        """The numbers of the channels that are picked."""
        axis = None if step.kwargs else follow.along(step.first)
        where = step.node.args[2] if axis is not None else None
        if axis is None or not isinstance(where, fx.Node) or where.op != "get_attr" or step.steps.is_shared(where):
            return super().channels(step, follow)
        if step.args[1] % step.value.ndim != axis.dim:
            return super().channels(step, follow)
        picked = axis.numbers[step.steps.value(where).cpu()]
        return spread(Axis(axis.dim, picked), step.value.shape)

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Correct the numbers of the channels."""
        axis, where = shrinking.axes[shrinking.inputs[node][0]], shrinking.inputs[node][-1]
        if axis is None or shrinking.axes[node] is None:
            return
        stays = shrinking.removal.keeps(axis.numbers)
        holder, name = owner(shrinking.steps.traced, str(where.target))
        index: Tensor = getattr(holder, name)
        places = stays.cumsum(0) - 1
        setattr(holder, name, places[index.cpu()][stays[index.cpu()]].to(index))
