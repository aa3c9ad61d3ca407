"""Sums, means and extremes over dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import Axis, spread
from reflow_lightning.collapse.facts.intervals import Bounds
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import words


class Reduction(Operator):
    """A step that never falls where a value grows, and drops dimensions."""

    functions: Mapping[str, str] = words("mean sum amax amin")

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        if not step.reads_tensors or (step.name == "sum" and _over_samples(step)):
            return step.nothing
        return step.rising()

    def channels(self, step: Step, follow: Following) -> Any:
        """The channels of the input, if they are not summed over."""
        axis, dims, value = follow.along(step.first), _dims(step), step.value
        if axis is None or dims is None or not isinstance(value, Tensor):
            return super().channels(step, follow)
        ndim = step.first.ndim
        reduced = {d % ndim for d in dims}
        if axis.dim in reduced:
            return super().channels(step, follow)
        dim = axis.dim if value.ndim == ndim else axis.dim - sum(d < axis.dim for d in reduced)
        return spread(Axis(dim, axis.numbers), value.shape)


def _dims(step: Step) -> Any:
    dims = step.argument(1, "dim")
    return [dims] if isinstance(dims, int) else dims


def _over_samples(step: Step) -> bool:
    """Whether a sum goes over the first dimension, whose size may be another one for other inputs."""
    dims, given = _dims(step), step.argument(0)
    if dims is None or not isinstance(given, Bounds) or not given.low.ndim:
        return True
    return any(d % given.low.ndim == 0 for d in dims)
