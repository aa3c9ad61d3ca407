"""Why constant channels are still in a network that was collapsed."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from reflow_lightning.collapse.edits import Row, label
from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.facts.intervals import Bounds, uniform
from reflow_lightning.collapse.facts.operator import operator_of
from reflow_lightning.collapse.graph.kind import OPAQUE
from reflow_lightning.collapse.operators.affine import Affine, affine
from reflow_lightning.collapse.passes.norms import FOLDED
from reflow_lightning.collapse.passes.removal import find_reads


def leftovers(analysis: Analysis) -> list[Row]:
    """Layers with rows of zeros, whose output channels are constant, and steps that are not looked into.

    Returns:
        One row a layer and reason.
    """
    steps, channels, bounds = analysis.steps, analysis.channels, analysis.bounds
    reads = find_reads(steps, channels, bounds).values()
    carried = {int(n) for read in reads for n in read.numbers[~read.values.isnan() & (read.values != 0) & ~read.folds]}
    rows = []
    (output,) = (node for node in steps.traced.graph.nodes if node.op == "output")
    if all(isinstance(bounds[n], Bounds) and bool(bounds[n].constant.all()) for n in output.all_input_nodes):
        rows.append(Row("output", "the whole network", "puts out the same for every input: no signal passes"))
    for node in steps:
        operator, axis = operator_of(steps, node), channels.axis(node)
        value = analysis.values[node]
        unknown = steps.name(node) in (OPAQUE, "layernorm") and FOLDED not in node.meta
        if unknown and isinstance(value, Tensor) and value.is_floating_point():
            rows.append(Row("step", label(node), "not looked into: what it reads and puts out keeps its channels"))
        if not isinstance(operator, Affine) or axis is None or not isinstance(bounds[node], Bounds):
            continue
        empty = (affine(steps.module(node))[0].flatten(1) == 0).all(1).cpu()
        constant = empty | ~uniform(bounds[node], axis.dim).isnan()
        reasons = Counter(
            _reason(number, channels.groups.reason(number), carried) for number in axis.numbers[constant].tolist()
        )
        for reason, count in reasons.items():
            rows.append(Row("channels", str(node.target), f"{count} of {len(axis.numbers)} are constant, but {reason}"))
    return rows


def _reason(number: int, pinned_by: str | None, carried: set[int]) -> str:
    if pinned_by == "the network's output":
        return "they are the network's output"
    if pinned_by is not None:
        return f"tied to {pinned_by}, which is not looked into"
    if number in carried:
        return "not zero where a convolution pads with zeros, or is transposed"
    return "added to channels that vary, or tied to them by a depthwise convolution"
