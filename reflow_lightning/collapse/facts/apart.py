"""Channels that may be missing in one operand of an addition, since they are constant there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from torch import fx

from reflow_lightning.collapse.facts.groups import Axis, Channels
from reflow_lightning.collapse.facts.intervals import Bounds, uniform

_WORTH_IT = 0.25  # share of an operand's channels that must be constant before an addition is taken apart


def part_of_sum(
    node: fx.Node, channels: Channels, bounds: Mapping[fx.Node, Any], varying: Set[fx.Node]
) -> tuple[fx.Node, Axis] | None:
    """The operand of an addition that needs to be added in part only, and for each of its channels whether it may go.

    Args:
        node: The addition of two steps.
        channels: Those of both.
        bounds: Bounds by step.
        varying: The steps that have to do with an input; others may put out one value for all samples.
    """
    operands = [n for n in node.args if isinstance(n, fx.Node)]
    if operands[0] is operands[1] or not varying >= set(operands):
        return None
    found = constant_in_one([channels.axis(n) for n in operands], [bounds.get(n) for n in operands])
    return None if found is None else (operands[found[0]], found[1])


def constant_in_one(axes: Sequence[Axis | None], bounds: Sequence[Any]) -> tuple[int, Axis] | None:
    """Which of two operands has more channels that are constant in it and not in the other, and which these are.

    Args:
        axes: The channels of each operand; of one that is not looked into there are none, and they stay.
        bounds: The bounds of each.

    Returns:
        The place of the operand, and a truth value for each channel; nothing if too few channels are such.

    Example:
        >>> import torch
        >>> axis = Axis(1, torch.arange(2))
        >>> low, high = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0]])
        >>> found = constant_in_one([axis, axis], [Bounds(low, high), Bounds(low - 1, high)])
        >>> found[0], found[1].numbers.tolist()
        (0, [True, False])
    """
    known = [axis for axis in axes if axis is not None]
    if not known or any(axis.dim != known[0].dim for axis in known):
        return None
    if not all(isinstance(b, Bounds) for b in bounds):
        return None
    constant = [~uniform(b, known[0].dim).isnan() for b in bounds]
    only = [constant[0] & ~constant[1], constant[1] & ~constant[0]]
    shares = [0.0 if axis is None else float(o.double().mean()) for axis, o in zip(axes, only, strict=True)]
    index = int(shares[1] > shares[0])
    if shares[index] < _WORTH_IT:
        return None
    return index, Axis(known[0].dim, only[index])
