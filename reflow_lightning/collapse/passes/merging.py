"""Merge linear maps that follow each other: BatchNorm into the layer before, two layers into one that is cheaper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from reflow_lightning.collapse.edits import (
    Row,
    affine,
    as_rows,
    bypass,
    is_fed_by_one,
    parameter_like,
    set_affine,
    tidy,
)
from reflow_lightning.collapse.facts.intervals import affine_of_batchnorm
from reflow_lightning.collapse.graph.steps import Steps


@torch.no_grad()
def fold_batchnorm(steps: Steps, values: Mapping[fx.Node, Any]) -> list[Row]:
    """Fold every BatchNorm layer into the convolution or linear layer before it, if nobody else reads that.

    Returns:
        What was folded.
    """
    rows = []
    for node in steps:
        given = node.args[0] if steps.name(node) == "batchnorm" else None
        if not isinstance(given, fx.Node) or steps.name(given) not in ("conv", "linear") or not is_fed_by_one(given):
            continue
        if steps.name(given) == "linear" and values[given].ndim != 2:  # BatchNorm has its channels elsewhere
            continue
        factor, shift = affine_of_batchnorm(steps.module(node))
        weight, bias = affine(steps.module(given))
        factor, shift = factor.to(weight), shift.to(weight)
        set_affine(steps.module(given), weight * as_rows(factor, weight), bias * factor + shift)
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
        first = node.args[0] if steps.name(node) in ("conv", "linear") else None
        if not isinstance(first, fx.Node) or steps.name(first) != steps.name(node) or not is_fed_by_one(first):
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
        return done, left  # whoever goes on looks at the graph anew
    return done, left


def _multiply_adds(layer: Any, output: Tensor) -> int:
    channels = output.shape[-1 if isinstance(layer, nn.Linear) else 1]
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
    (weight, bias), (weight2, bias2) = affine(one), affine(two)
    if isinstance(one, nn.Linear):
        return _linear(weight2 @ weight, weight2 @ bias + bias2, one)
    return _convolution(one, two, _dense(weight, one), bias, _dense(weight2, two), bias2)


def _linear(weight: Tensor, bias: Tensor, like: nn.Linear) -> nn.Linear:
    merged = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    merged.weight = parameter_like(weight, like.weight)
    merged.bias = parameter_like(bias, like.weight) if bias.any() else None  # type: ignore[assignment]
    return merged.eval()


_CONVOLUTIONS: Mapping[int, tuple[type[nn.Module], Any]] = {
    1: (nn.Conv1d, functional.conv_transpose1d),
    2: (nn.Conv2d, functional.conv_transpose2d),
    3: (nn.Conv3d, functional.conv_transpose3d),
}


def _convolution(one: Any, two: Any, weight: Tensor, bias: Tensor, weight2: Tensor, bias2: Tensor) -> nn.Module | str:
    if isinstance(one.padding, str) or isinstance(two.padding, str):
        return "padding given by name"
    if (one.padding_mode, two.padding_mode) != ("zeros", "zeros"):
        return "padding that is not with zeros"
    points, points2 = set(one.kernel_size) == {1}, set(two.kernel_size) == {1}
    if any(two.padding) and (not points or any(one.padding) or bool(bias.any())):
        return "zero padding between them"
    dims = range(len(one.stride))
    kind, transposed = _CONVOLUTIONS[len(one.stride)]
    if points2:
        dilation = one.dilation
        steps = [1] * len(dims)
    elif points:
        dilation = [two.dilation[d] * one.stride[d] for d in dims]
        steps = [1] * len(dims)
    else:
        dilation = [1] * len(dims)
        steps = [two.dilation[d] * one.stride[d] for d in dims]
    spacing = 1 if points or points2 else one.dilation
    # y[n] = sum_b V[b] sum_a W[a] x[n s s' + b s + a]: the kernels convolved, the second with its taps s apart
    merged = transposed(weight2, weight, stride=tuple(steps), dilation=spacing)
    layer: Any = kind(
        merged.shape[1],
        merged.shape[0],
        tuple(merged.shape[2:]),
        stride=tuple(one.stride[d] * two.stride[d] for d in dims),
        padding=tuple(one.padding[d] + two.padding[d] * one.stride[d] for d in dims),
        dilation=tuple(dilation),
        device="meta",
    )
    layer.weight = parameter_like(merged, one.weight)
    total = weight2.flatten(2).sum(2) @ bias + bias2
    layer.bias = parameter_like(total, one.weight) if total.any() else None
    merged_layer: nn.Module = layer.eval()
    return merged_layer


def _dense(weight: Tensor, layer: Any) -> Tensor:
    """The weight of a convolution without groups that does the same."""
    if layer.groups == 1:
        return weight
    out, ins = len(weight) // layer.groups, weight.shape[1]
    dense = weight.new_zeros(len(weight), ins * layer.groups, *weight.shape[2:])
    for group in range(layer.groups):
        rows = slice(group * out, (group + 1) * out)
        dense[rows, group * ins : (group + 1) * ins] = weight[rows]
    return dense
