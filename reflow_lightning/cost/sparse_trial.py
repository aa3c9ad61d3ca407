"""Whether a layer may get a sparse weight: what is in the way, and whether it puts out the same."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from reflow_lightning.cost.sparse_layers import SparseLayer, SparseLinear, SparsePointwise
from reflow_lightning.cost.sparse_speeds import LayerSpeed
from reflow_lightning.layers import ConvLayer, Layer, LinearLayer, layer_of
from reflow_lightning.running.compat.hooks import has_backward_hooks, has_hooks
from reflow_lightning.running.describing import first_line
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.running.hooks import Call

DENSEST = 0.5
"""A weight with a larger share of non-zeros is not tried: each takes several times as long as in a dense product."""

_TYPES = (torch.float32, torch.float64)


def can_be_sparse(layer: Layer) -> bool:
    """Whether there is a sparse layer of this kind.

    Example:
        >>> [can_be_sparse(layer_of(m)) for m in (nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3))]
        [True, True, False]
    """
    return isinstance(layer, LinearLayer) or (isinstance(layer, ConvLayer) and layer.is_pointwise)


def obstacle(layer: Layer, skipped: Mapping[str, str]) -> str:
    """Why a layer stays dense without a measurement; ``""`` if it is to be measured.

    Args:
        layer: The layer.
        skipped: Why layers can't be written, by name; see `reflow_lightning.layers.find_layers`.

    Example:
        >>> layer = layer_of(nn.Linear(2, 2).bfloat16())
        >>> obstacle(layer, {})
        'its weight is bfloat16, and torch multiplies sparse weights in float32 and float64 alone'
    """
    module, kind = layer.module, type(layer.module)
    if layer.name in skipped:
        return skipped[layer.name]
    if not kind.__module__.startswith("torch.nn.") and not layer_of.names(kind):
        return f"{kind.__name__} is a class of one's own and may do more: register it with layer_of"
    if has_hooks(module) or has_backward_hooks(module):
        return "hooks are registered on it, which would be lost"
    weight = weight_of(layer)
    if type(weight) is not nn.Parameter:
        return f"its weight is a {type(weight).__name__}"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}, and sparse weights are for the CPU"
    if weight.dtype not in _TYPES:
        dtype = str(weight.dtype).removeprefix("torch.")
        return f"its weight is {dtype}, and torch multiplies sparse weights in float32 and float64 alone"
    return f"more than {DENSEST:.0%} of its weights are not zero" if density(layer) > DENSEST else ""


def weight_of(layer: Layer) -> Tensor | None:
    """The weight as the layer has it, if it is a tensor."""
    weight = getattr(layer.module, layer.weights[0].name, None)
    return weight if isinstance(weight, Tensor) else None


def density(layer: Layer) -> float:
    """The share of a layer's weights that are not zero; 0 if it has none."""
    weight = weight_of(layer)
    return 0.0 if weight is None else float(weight.count_nonzero()) / max(1, weight.numel())


def sparse_layer(layer: Layer) -> SparseLayer:
    """The sparse layer of the weight and the bias of a dense one.

    Example:
        >>> sparse_layer(layer_of(nn.Conv2d(4, 2, 1)))
        SparsePointwise(4, 2, density=1.000)
    """
    weight, bias = weight_of(layer), getattr(layer.module, "bias", None)
    assert weight is not None
    if isinstance(layer, ConvLayer):
        return SparsePointwise(weight, bias)
    return SparseLinear(weight, bias, layer.weights[0].outputs)


class Trial:
    """A layer beside the sparse one that may take its place, compared in each of its calls.

    Args:
        layer: The layer.
        obstacle: Why it stays dense in any case, or ``""``.
        tolerance: The largest difference between their outputs, relative to the largest output.

    Attributes:
        dense: The module.
        sparse: The sparse layer; ``None`` if there is an obstacle.
    """

    def __init__(self, layer: Layer, obstacle: str, *, tolerance: float) -> None:
        self.dense, self.sparse = layer.module, None if obstacle else sparse_layer(layer)
        self._layer, self._fault, self._tolerance = layer, obstacle, tolerance
        self._called = False

    def take(self, call: Call) -> None:
        """Compare a call that the dense layer has just answered."""
        self._called = True
        if self.sparse is not None and not self._fault:
            self._fault = _compared(self.sparse, call, self._tolerance)

    @property
    def fault(self) -> str:
        """Why the layer stays dense, however fast a sparse one is; ``""`` if it need not."""
        return self._fault if self._called else "not called with this input"

    def left(self) -> LayerSpeed:
        """The row of a layer that stays dense without a measurement."""
        layer = self._layer
        return LayerSpeed(layer.name, type(layer.module).__name__, density(layer), reason=self.fault)

    def measured(self, dense: float, sparse: float, margin: float) -> LayerSpeed:
        """The row of a layer that was measured.

        Args:
            dense: Seconds of the dense layer.
            sparse: Seconds of the sparse one.
            margin: So many times as fast must the sparse layer be.
        """
        speedup = dense / max(sparse, sys.float_info.min)
        reason = "" if speedup >= margin else f"not {margin:g} times as fast"
        return replace(self.left(), dense_ms=1e3 * dense, sparse_ms=1e3 * sparse, speedup=speedup, reason=reason)


def _compared(layer: SparseLayer, call: Call, tolerance: float) -> str:
    """What is wrong with the output of a sparse layer; ``""`` if nothing is."""
    if (len(call.args), *call.kwargs) not in ((1,), (0, "input")):
        return "it is called with more than its input, or by another name"
    dense: Tensor = call.output
    try:
        sparse: Tensor = layer(call.first)
    except (RuntimeError, NotImplementedError) as error:  # a torch without MKL, say
        return f"torch can't multiply it by a sparse weight: {first_line(error)}"
    if (dense.dtype, dense.stride()) != (sparse.dtype, sparse.stride()):
        return "its output would have another type or another order in memory"
    difference = relative_difference(dense, sparse)
    return f"its output would differ by {difference:.0e}" if difference > tolerance else ""
