"""The straight pieces of activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.graph.steps import Steps


class Piece(NamedTuple):
    """An interval on which an activation function is ``slope * z + offset``; each of shape (channels,) or ()."""

    low: float
    high: float
    slope: Tensor
    offset: Tensor


def straight(low: float, high: float, slope: float, offset: float = 0.0) -> Piece:
    """A piece that is the same in every channel."""
    return Piece(low, high, torch.tensor([slope], dtype=torch.float64), torch.tensor([offset], dtype=torch.float64))


def _clamped(low: float, high: float) -> list[Piece]:
    return [straight(-math.inf, low, 0.0, low), straight(low, high, 1.0), straight(high, math.inf, 0.0, high)]


def _leaking(slope: float) -> list[Piece]:
    return [straight(-math.inf, 0.0, slope), straight(0.0, math.inf, 1.0)]


def _far_off(far: float) -> list[Piece]:
    """Of a function that is zero or the identity to a precision of 1e-8."""
    return [straight(-math.inf, -far, 0.0), straight(far, math.inf, 1.0)]


def _option(steps: Steps, node: fx.Node, position: int, name: str, default: float) -> float:
    if node.op == "call_module":
        return float(getattr(steps.module(node), name))
    value = node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
    return float(value) if isinstance(value, (int, float)) else math.nan


def _hardtanh(steps: Steps, node: fx.Node) -> list[Piece]:
    return _clamped(_option(steps, node, 1, "min_val", -1.0), _option(steps, node, 2, "max_val", 1.0))


PIECES: Mapping[str, Callable[[Steps, fx.Node], list[Piece]]] = {
    "relu": lambda steps, node: _leaking(0.0),
    "relu6": lambda steps, node: _clamped(0.0, 6.0),
    "hardtanh": _hardtanh,
    "leaky_relu": lambda steps, node: _leaking(_option(steps, node, 1, "negative_slope", 0.01)),
    "gelu": lambda steps, node: _far_off(6.0),
    "silu": lambda steps, node: _far_off(22.0),
}
"""By the name of the step."""
