"""Steps that tell a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import is_numbers
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import words
from reflow_lightning.collapse.graph.sizes import is_computed_with


class Shape(Operator):
    """A step that tells a size, if what it puts out is no tensor."""

    functions: Mapping[str, str] = words("size dim getattr ndimension numel len")
    views: frozenset[str] = frozenset(["getattr"])

    def channels(self, step: Step, follow: Following) -> Any:
        """None; but where a computation goes on with their number, all of them stay."""
        counts = is_numbers(step.first) and _counts(step, step.first, follow)
        if counts or isinstance(step.value, Tensor):
            return super().channels(step, follow)
        return follow.pinned(step.value, step.node.name)


def _counts(step: Step, numbers: Tensor, follow: Following) -> bool:
    """Whether the number of channels goes into a computation."""
    axis = follow.along(numbers)
    if axis is None:
        return False
    by_name = bool(step.node.kwargs)  # which size is asked for is not looked into then
    return by_name or is_computed_with(step.steps, step.values, step.node, axis.dim, numbers.ndim)
