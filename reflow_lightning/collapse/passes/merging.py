"""Merge linear maps that follow each other: BatchNorm into the layer before, two layers into one that is cheaper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from reflow_lightning.collapse.edits import Row, bypass, is_fed_by_one, tidy
from reflow_lightning.collapse.facts.operator import operator_of
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.collapse.operators.affine import Affine, affine_of
from reflow_lightning.collapse.operators.batchnorm import affine_of_batchnorm


@torch.no_grad()
def fold_batchnorm(steps: Steps, values: Mapping[fx.Node, Any]) -> list[Row]:
    """Fold every BatchNorm layer into the convolution or linear layer before it, if nothing else reads that.

    Returns:
        What was folded.
    """
    rows = []
    for node in steps:
        given = node.args[0] if steps.name(node) == "batchnorm" else None
        layer = operator_of(steps, given) if isinstance(given, fx.Node) else None
        if not isinstance(given, fx.Node) or not isinstance(layer, Affine) or not is_fed_by_one(given):
            continue
        if layer.channel_dim(values[given].ndim) != 1:  # BatchNorm has its channels elsewhere
            continue
        layer.rescale(steps.module(given), *affine_of_batchnorm(steps.module(node)))
        rows.append(Row("batchnorm", str(node.target), f"folded into {given.target}"))
        bypass(node, given)
    if rows:
        tidy(steps.traced)
    return rows


@torch.no_grad()
def merge_layers(steps: Steps, values: Mapping[fx.Node, Any]) -> tuple[list[Row], list[Row]]:
    """Merge pairs of linear or convolution layers with nothing between them, where that saves multiply-adds.

    Returns:
        What was merged; and what was not, and why.
    """
    done: list[Row] = []
    left: list[Row] = []
    for node in steps:
        operator = operator_of(steps, node)
        first = node.args[0] if isinstance(operator, Affine) else None
        if not isinstance(first, fx.Node) or operator_of(steps, first) is not operator or not is_fed_by_one(first):
            continue
        names = f"{first.target} and {node.target}"
        one, two = steps.module(first), steps.module(node)
        layer = merge(one, two)
        if isinstance(layer, str):
            left.append(Row("merge", names, layer))
            continue
        separate = _multiply_adds(one, values[first]) + _multiply_adds(two, values[node])
        together = _multiply_adds(layer, values[node])
        if together > separate:
            left.append(Row("merge", names, f"one layer would need {together / separate:.2f} times the multiply-adds"))
            continue
        growth = _parameters(layer) / (_parameters(one) + _parameters(two))
        if growth > 1:
            left.append(Row("merge", names, f"one layer would have {growth:.2f} times the parameters"))
            continue
        steps.traced.set_submodule(str(node.target), layer)
        node.args = first.args
        done.append(Row("merge", names, f"one layer with {together / separate:.2f} times the multiply-adds"))
        tidy(steps.traced)
        return done, left  # the next merge looks at the graph anew
    return done, left


def _multiply_adds(layer: Any, output: Tensor) -> int:
    channels = output.shape[affine_of(layer).channel_dim(output.ndim)]
    return output.numel() // channels * int(layer.weight.numel())


def _parameters(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())


def merge(one: nn.Module, two: nn.Module) -> nn.Module | str:
    """The layer that does what two do one after the other, or why there is none.

    A convolution of size k after one of size j with stride s is one of size ``j + (k - 1) s``; none is cropped, which
    would not be the same. If the second pads with zeros, its border sees zeros where the first would have put out
    something else: then there is no such layer, unless the first is 1x1 without a bias.

    Example:
        >>> merged = merge(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3))
        >>> merged.kernel_size, merged.padding
        ((5, 5), (1, 1))
        >>> merge(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
        'zero padding between them'
    """
    return affine_of(one).merge(one, two)
