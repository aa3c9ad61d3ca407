"""Steps where two tensors meet: sums, products and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.edits import bypass, new_buffer
from reflow_lightning.collapse.facts.apart import part_of_sum
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import spread
from reflow_lightning.collapse.facts.intervals import Bounds, broadcast, clean, times, uniform, unknown
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.removal import MismatchError, Shrinking
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import words
from reflow_lightning.collapse.graph.sizes import size_at


def _add(a: Bounds, b: Bounds) -> Bounds:
    return clean(a.low + b.low, a.high + b.high)


def _sub(a: Bounds, b: Bounds) -> Bounds:
    return clean(a.low - b.high, a.high - b.low)


def _divide(a: Bounds, b: Bounds) -> Bounds:
    if not bool((b.constant & (b.low != 0)).all()):
        return unknown(broadcast(a.low, b.low)[0])
    return times(a, Bounds(1 / b.low, 1 / b.low))


_OF_PAIRS: Mapping[str, Callable[[Bounds, Bounds], Bounds]] = {
    "add": _add,
    "sub": _sub,
    "mul": times,
    "truediv": _divide,
}


def _as_bounds(value: Any) -> Bounds:
    """Bounds as they are; a number is its own."""
    if isinstance(value, Bounds):
        return value
    number = torch.as_tensor(value, dtype=torch.float64)
    return Bounds(number, number)


class Pair(Operator):
    """An operation on two tensors, or a tensor and a number."""

    functions: Mapping[str, str] = words("sub mul truediv") | {
        **dict.fromkeys(["div", "true_divide", "divide"], "truediv"),
        "multiply": "mul",
        "subtract": "sub",
    }

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        known = len(step.args) == 2 and all(
            isinstance(value, (Bounds, bool, int, float, Tensor)) for value in step.args
        )
        if step.kwargs or not known or not step.reads_tensors or not isinstance(step.value, Tensor):
            return step.nothing
        return _OF_PAIRS[step.name](*map(_as_bounds, step.args))

    def channels(self, step: Step, follow: Following) -> Any:
        """Where channels meet they become one, unless one operand serves all of them."""
        value, both = step.value, [a for a in step.args if isinstance(a, Tensor)]
        if step.kwargs or len(step.args) != 2 or not both or not isinstance(value, Tensor):
            return super().channels(step, follow)
        if len(both) == 1:
            same = both[0].shape == value.shape
            return both[0] if same else super().channels(step, follow)
        for big, small in (both, both[::-1]):
            axis = follow.along(big)
            if axis is None or big.shape != value.shape:
                continue
            if len(axis.numbers) > size_at(small, axis.dim - big.ndim):
                follow.groups.pin(small, step.node.name)
                return big
        return self.meet(step, both, follow)

    def meet(self, step: Step, both: list[Tensor], follow: Following) -> Tensor:
        """The numbers of a result in which the channels of both operands lie."""
        first, second = broadcast(*both)
        follow.groups.unite(first, second)
        return first


class Extreme(Pair):
    """The larger or the smaller of two values."""

    functions: Mapping[str, str] = words("maximum minimum")

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        return step.rising() if step.reads_tensors and not step.kwargs else step.nothing


class Add(Pair):
    """A sum, from which channels may be missing in one operand, since they are constant there."""

    functions: Mapping[str, str] = words("add")

    def meet(self, step: Step, both: list[Tensor], follow: Following) -> Tensor:
        """See `Pair`."""
        found = None
        if both[0].shape == both[1].shape:
            found = part_of_sum(step.node, follow.found, follow.bounds, follow.varying)
        if found is None:
            return super().meet(step, both, follow)
        part, channels = found
        follow.found.apart[step.node] = (part,)
        together = ~spread(channels, both[0].shape)
        follow.groups.unite(both[0][together], both[1][together])
        return both[1] if part is step.node.args[0] else both[0]

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Add the operand that lost channels at the places of the channels that it still has.

        Raises:
            MismatchError: If the result lacks some of them.
        """
        if node not in shrinking.channels.apart:
            return
        traced, graph = shrinking.steps.traced, shrinking.steps.traced.graph
        (part,) = shrinking.channels.apart[node]
        place = shrinking.inputs[node].index(part)
        operand, lead = node.all_input_nodes[place], node.all_input_nodes[1 - place]  # which may be other steps by now
        own, whole = shrinking.axes[part], shrinking.axes[node]
        if own is None:
            return
        has = shrinking.removal.keeps(own.numbers)
        wants = torch.ones_like(has) if whole is None else shrinking.removal.keeps(whole.numbers)
        if bool((has & ~wants).any()):
            raise MismatchError(f"{node.name} would add channels that its result lacks: they stay")
        if bool((has == wants).all()):
            return
        missing = wants & ~has
        constants = uniform(shrinking.bounds[part], own.dim).where(missing, 0.0)[wants]
        like = next(p for p in traced.parameters() if p.is_floating_point())
        position = has[wants].nonzero().flatten()
        with graph.inserting_before(node):
            if bool(constants.any()):
                shape = [1] * node.meta["ndim"]
                shape[own.dim] = -1
                shift = graph.get_attr(new_buffer(traced, f"constant_{node.name}", constants.to(like).view(shape)))
                lead = graph.call_function(torch.add, (lead, shift))
            index = graph.get_attr(new_buffer(traced, f"index_{node.name}", position.to(like.device)))
            total = graph.call_function(torch.index_add, (lead, own.dim, index, operand))
        bypass(node, total)
