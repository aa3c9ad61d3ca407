"""Activation functions that act as a straight line on all that reaches them: replaced by the identity, or folded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.edits import (
    Row,
    affine,
    as_rows,
    bypass,
    is_fed_by_one,
    label,
    parameter_like,
    set_affine,
    tidy,
)
from reflow_lightning.collapse.facts.intervals import Bounds, affine_of_batchnorm
from reflow_lightning.collapse.graph.steps import Steps


class Piece(NamedTuple):
    """An interval on which an activation function is ``slope * z + offset``; each of shape (channels,) or ()."""

    low: float
    high: float
    slope: Tensor
    offset: Tensor


def pieces_of(steps: Steps, node: fx.Node) -> list[Piece]:
    """The straight pieces of an activation function; those of GELU and SiLU to a precision of 1e-8.

    Example:
        >>> from torch import nn
        >>> from reflow_lightning.collapse.graph.tracing import trace
        >>> traced = trace(nn.Sequential(nn.ReLU6()))
        >>> node = list(traced.graph.nodes)[1]
        >>> [(piece.low, piece.high, piece.slope.item()) for piece in pieces_of(Steps(traced), node)]
        [(-inf, 0.0, 0.0), (0.0, 6.0, 1.0), (6.0, inf, 0.0)]
    """
    name = steps.name(node)
    if name == "relu":
        return [_piece(-math.inf, 0.0, 0.0), _piece(0.0, math.inf, 1.0)]
    if name == "relu6":
        return _clamped(0.0, 6.0)
    if name == "hardtanh":
        return _clamped(*(_option(steps, node, i, n, d) for i, n, d in ((1, "min_val", -1.0), (2, "max_val", 1.0))))
    if name == "leaky_relu":
        slope = _option(steps, node, 1, "negative_slope", 0.01)
        return [_piece(-math.inf, 0.0, slope), _piece(0.0, math.inf, 1.0)]
    if name == "prelu" and node.op == "call_module":
        weight: Tensor = steps.module(node).weight
        negative = Piece(-math.inf, 0.0, weight.detach().double().cpu(), torch.zeros(1, dtype=torch.float64))
        return [negative, _piece(0.0, math.inf, 1.0)]
    if name in ("gelu", "silu"):
        far = 6.0 if name == "gelu" else 22.0
        return [_piece(-math.inf, -far, 0.0), _piece(far, math.inf, 1.0)]
    return []


def _piece(low: float, high: float, slope: float, offset: float = 0.0) -> Piece:
    return Piece(low, high, torch.tensor([slope], dtype=torch.float64), torch.tensor([offset], dtype=torch.float64))


def _clamped(low: float, high: float) -> list[Piece]:
    return [_piece(-math.inf, low, 0.0, low), _piece(low, high, 1.0), _piece(high, math.inf, 0.0, high)]


def _option(steps: Steps, node: fx.Node, position: int, name: str, default: float) -> float:
    if node.op == "call_module":
        return float(getattr(steps.module(node), name))
    value = node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
    return float(value) if isinstance(value, (int, float)) else math.nan


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
    for piece in pieces_of(steps, node):  # a channel that is always zero may count as on, which leaves the identity
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
    read = {node: node.args[0] for node in dims if node.args}  # as the graph is now, of which the bounds are
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
    """Let the layer before do it, if there is one that nobody else reads; whether that is so."""
    name = steps.name(given)
    if name not in ("conv", "linear", "batchnorm") or not is_fed_by_one(given) or not bool((line.slope != 0).any()):
        return False
    module = steps.module(given)
    if name == "batchnorm":
        factor, shift = affine_of_batchnorm(module)
        like: Tensor = module.running_mean
        module.running_mean, module.running_var = torch.zeros_like(like), torch.ones_like(like) - module.eps
        module.weight = parameter_like(factor * line.slope, like)
        module.bias = parameter_like(shift * line.slope + line.offset, like)
        module.affine = True
    else:
        weight, bias = affine(module)
        slope, offset = line.slope.to(weight), line.offset.to(weight)
        set_affine(module, weight * as_rows(slope, weight), bias * slope + offset)
    return True
