"""Branches that put out a constant: what they add becomes a constant of the graph, or nothing at all."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from reflow_lightning.collapse.edits import Row, bypass, new_buffer, tidy
from reflow_lightning.collapse.facts.intervals import Bounds, uniform
from reflow_lightning.collapse.graph.steps import Steps, after_inputs
from reflow_lightning.collapse.operators.affine import is_weighted
from reflow_lightning.running.batches import device_of


def drop_constant_branches(steps: Steps, bounds: Mapping[fx.Node, Any], values: Mapping[fx.Node, Any]) -> list[Row]:
    """Replace constant operands of additions, so that nothing computes them any more.

    Returns:
        What was removed, by addition.
    """
    rows = []
    varying = after_inputs(steps.traced)
    device = device_of(steps.traced)
    for node in steps:
        if steps.name(node) != "add" or len(node.args) != 2 or node.kwargs:
            continue
        for operand, other in (node.args, node.args[::-1]):
            if not isinstance(operand, fx.Node) or other not in varying or operand.op == "get_attr":
                continue
            constant = _constant(bounds.get(operand))
            whole, rest = values[node], values.get(other)
            if (
                constant is None
                or not isinstance(rest, Tensor)
                or (rest.shape, rest.dtype) != (whole.shape, whole.dtype)
            ):
                continue
            rows.append(
                Row("branch", _layers(steps, operand), f"constant: step {node.name} needs no computation of it")
            )
            if not constant.any():
                bypass(node, other)
            else:
                with steps.traced.graph.inserting_before(node):
                    name = new_buffer(steps.traced, f"constant_{node.name}", constant.to(device, values[node].dtype))
                    shift = steps.traced.graph.get_attr(name)
                    total = steps.traced.graph.call_function(operator.add, (other, shift))
                bypass(node, total)
            break
    if rows:
        tidy(steps.traced)
    return rows


def _constant(bounds: Any) -> Tensor | None:
    """The one value of each channel, with all other dimensions of size 1, if there is nothing else."""
    if not isinstance(bounds, Bounds) or not bool(bounds.constant.all()):
        return None
    for dim in range(bounds.low.ndim):
        values = uniform(bounds, dim)
        if not bool(values.isnan().any()):
            shape = [1] * bounds.low.ndim
            shape[dim] = -1
            return values.view(shape)
    return None


def _layers(steps: Steps, operand: fx.Node) -> str:
    """The weighted layers that only this operand needs."""
    names: list[str] = []
    waiting, gone = [operand], {operand}
    while waiting:
        node = waiting.pop()
        if node.op == "call_module" and is_weighted(steps.module(node)):
            names.insert(0, str(node.target))
        for before in node.all_input_nodes:
            if before not in gone and set(before.users) <= gone:
                gone.add(before)
                waiting.append(before)
    return ", ".join(names) or operand.name
