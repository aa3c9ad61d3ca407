"""Activation functions that act as a straight line on all that reaches them: replaced by the identity, or folded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.edits import Row, bypass, is_fed_by_one, label, tidy
from reflow_lightning.collapse.facts.intervals import Bounds
from reflow_lightning.collapse.facts.operator import operator_of
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.collapse.operators.activations import Activation


class Line(NamedTuple):
    """``slope * z + offset`` by channel."""

    slope: Tensor
    offset: Tensor

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return bool((self.slope == 1).all()) and not bool(self.offset.any())


def line_of(steps: Steps, node: fx.Node, bounds: Bounds, dim: int) -> Line | None:
    """What an activation function amounts to between these bounds, if that is a straight line in every channel."""
    rows_low, rows_high = (end.movedim(dim, 0).reshape(end.shape[dim], -1) for end in bounds)
    low, high = rows_low.amin(1), rows_high.amax(1)
    slope, offset = torch.full_like(low, math.nan), torch.full_like(low, math.nan)
    operator = operator_of(steps, node)
    pieces = operator.pieces(steps, node) if isinstance(operator, Activation) else []
    for piece in pieces:  # a channel that is always zero may count as on, which leaves the identity
        inside = (piece.low <= low) & (high <= piece.high)
        slope, offset = piece.slope.where(inside, slope), piece.offset.where(inside, offset)
    return None if bool(slope.isnan().any()) else Line(slope, offset)


def straighten(
    steps: Steps, bounds: Mapping[fx.Node, Any], dims: Mapping[fx.Node, int], found: str
) -> tuple[list[Row], list[Row]]:
    """Replace activation functions that are straight lines.

    Args:
        steps: The graph.
        bounds: Bounds by step.
        dims: The channel dimension of each activation function's input.
        found: How the bounds are known, for the report.

    Returns:
        What was replaced; and what is a straight line, but can't be.
    """
    done: list[Row] = []
    left: list[Row] = []
    read = {node: node.args[0] for node in dims if node.args}  # of the graph as it is now, which the bounds belong to
    for node, before in read.items():
        steps.at = node
        if not isinstance(before, fx.Node) or not isinstance(bounds[before], Bounds):
            continue
        line = line_of(steps, node, bounds[before], dims[node])
        given = node.args[0]
        if line is None or not isinstance(given, fx.Node):
            continue
        if line.is_identity:
            done.append(Row("rectifier", label(node), f"always on ({found}): replaced by the identity"))
            bypass(node, given)
        elif _scale(steps, given, line):
            done.append(
                Row("rectifier", label(node), f"a straight line in each channel ({found}): folded into {label(given)}")
            )
            bypass(node, given)
        elif bool((line.slope != 0).any()):
            why = "its input is also used elsewhere" if len(given.users) > 1 else f"its input comes from {label(given)}"
            left.append(Row("rectifier", label(node), f"a straight line in each channel ({found}), but {why}"))
    if done:
        tidy(steps.traced)
    return done, left


@torch.no_grad()
def _scale(steps: Steps, given: fx.Node, line: Line) -> bool:
    """Let the layer before do it, if there is one that nothing else reads; whether that is so."""
    if not is_fed_by_one(given) or not bool((line.slope != 0).any()):
        return False
    module = steps.module(given) if given.op == "call_module" else None
    return operator_of(steps, given).rescale(module, line.slope, line.offset)
