"""Channels that are constant before a LayerNorm: folded into the linear layers after it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.edits import Row, bypass, label, new_buffer, tidy
from reflow_lightning.collapse.facts.intervals import Bounds, uniform
from reflow_lightning.collapse.facts.operator import operator_of
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.collapse.operators.affine import affine, width
from reflow_lightning.collapse.operators.linear import Linear
from reflow_lightning.running.batches import device_of

FOLDED = "of a folded norm"
"""Marks steps that put nothing in the way of another pass, though none looks into them."""

_PRICE = 256
"""Multiply-adds that cost as much as a channel does in a LayerNorm written as steps, beyond its cost in torch's own."""


@torch.no_grad()
def fold_into_norms(
    steps: Steps, bounds: Mapping[fx.Node, Any], values: Mapping[fx.Node, Any], only: str | None = None
) -> list[Row]:
    """Let the linear layers after a LayerNorm read two numbers instead of all channels that are constant before it.

    Of C channels let K be constants c with the mean c' and the variance v. With the mean m and the deviation s of all
    channels, a constant leaves the norm as ``g (c - m) / s + b``, so that all that a linear layer with the weights W
    reads of them is a map of ``1 / s`` and ``(m - c') / s``: its columns are ``W g (c - c')`` and ``-W g``, summed over
    them. The first number is scaled by the least s that there can be, so that half precision can hold it. The others
    are enough for m and s: the squared deviations of the constants from m sum up to
    ``K ((m - c')^2 + v)``. See Squeeze-Release (arXiv 2606.14346).

    Args:
        steps: The graph.
        bounds: Bounds by step.
        values: What each step puts out for some input.
        only: The name of the norm to which this is limited.

    Returns:
        What was folded.
    """
    rows = []
    for node in steps:
        given = node.args[0] if steps.name(node) == "layernorm" else None
        known = bounds.get(given) if isinstance(given, fx.Node) else None
        readers = list(node.users)
        if only not in (None, str(node.target)):
            continue
        if not isinstance(known, Bounds) or not all(isinstance(operator_of(steps, r), Linear) for r in readers):
            continue
        constants = uniform(known, known.low.ndim - 1)
        fixed = ~constants.isnan()
        count, total = int(fixed.sum()), len(fixed)
        outputs = sum(width(steps.module(reader)) for reader in readers)
        if count == total or (count - 2) * outputs <= _PRICE * (total - count):
            continue
        for reader in readers:
            _widen(steps, reader, steps.module(node), constants)
        bypass(node, _normalised(steps, node, values[node], constants))
        rows.append(Row("norm", label(node), f"{count} of {total} channels are constant before it"))
    if rows:
        tidy(steps.traced)
    return rows


def _least(norm: Any, constants: Tensor) -> float:
    """The least deviation s that there can be, which the constants alone would make."""
    fixed = ~constants.isnan()
    return float((fixed.double().mean() * constants[fixed].var(correction=0) + norm.eps).sqrt()) or 1.0


def _widen(steps: Steps, reader: fx.Node, norm: Any, constants: Tensor) -> None:
    """Have a linear layer read the channels that vary, without gain and shift, and the two numbers after them."""
    weight, bias = affine(steps.module(reader))
    fixed = ~constants.isnan()
    columns = weight.cpu() if norm.weight is None else weight.cpu() * norm.weight.double().cpu()
    apart = columns[:, fixed] @ (constants[fixed] - constants[fixed].mean()) / _least(norm, constants)
    new = torch.cat([columns[:, ~fixed], apart[:, None], -columns[:, fixed].sum(1, keepdim=True)], 1)
    if norm.bias is not None:
        bias = bias + weight @ norm.bias.to(weight)
    layer: Any = operator_of(steps, reader)
    layer.set(steps.module(reader), new.to(weight.device), bias)


def _normalised(steps: Steps, node: fx.Node, value: Tensor, constants: Tensor) -> fx.Node:
    """The steps that put out the channels that vary, less the mean and over the deviation, and the two numbers."""
    graph, given, fixed = steps.traced.graph, node.args[0], ~constants.isnan()
    count, total, middle = int(fixed.sum()), len(fixed), float(constants[fixed].mean())
    variance = float(constants[fixed].var(correction=0))
    call = graph.call_function
    with graph.inserting_before(node):
        places = (~fixed).nonzero().flatten()
        where = graph.get_attr(new_buffer(steps.traced, f"varying_{node.name}", places.to(device_of(steps.traced))))
        picked = call(torch.index_select, (given, value.ndim - 1, where))
        # The norm of a network in half precision computes in float32; the network may be cast after this.
        wide = call(torch.promote_types, (call(getattr, (picked, "dtype")), torch.float32))
        x = graph.call_method("to", (picked, wide))
        mean = call(operator.mul, (call(operator.add, (call(torch.sum, (x, -1, True)), count * middle)), 1 / total))
        apart = call(operator.sub, (x, mean))
        beside = call(operator.sub, (mean, middle))
        squares = call(torch.sum, (call(operator.mul, (apart, apart)), -1, True))
        rest = call(operator.mul, (call(operator.add, (call(operator.mul, (beside, beside)), variance)), float(count)))
        spread = call(operator.mul, (call(operator.add, (squares, rest)), 1 / total))
        scale = call(torch.rsqrt, (call(operator.add, (spread, steps.module(node).eps)),))
        first = call(operator.mul, (scale, _least(steps.module(node), constants)))
        parts = [call(operator.mul, (apart, scale)), first, call(operator.mul, (beside, scale))]
        normalised = graph.call_method("type_as", (call(torch.cat, (parts, -1)), picked))
    for step in (x, scale, normalised):
        step.meta[FOLDED] = True
    return normalised
