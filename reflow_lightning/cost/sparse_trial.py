"""Whether a sparse weight is faster: a layer's calls in a forward pass, each timed dense and sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.cost.latency import busy_clock, paired_latency
from reflow_lightning.cost.sparse_layers import SparseLayer, SparseLinear, SparsePointwise
from reflow_lightning.cost.sparse_speeds import LayerSpeed
from reflow_lightning.layers import ConvLayer, Layer, LinearLayer, layer_of
from reflow_lightning.running.compat.hooks import has_backward_hooks, has_hooks
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.running.hooks import Call

DENSEST = 0.5
"""A weight of which more is not zero is not tried: a non-zero takes several times as long as in a dense product."""

_TYPES = (torch.float32, torch.float64)


def can_be_sparse(layer: Layer) -> bool:
    """Whether there is a sparse layer of this kind.

    Example:
        >>> [can_be_sparse(layer_of(m)) for m in (nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3))]
        [True, True, False]
    """
    return isinstance(layer, LinearLayer) or (isinstance(layer, ConvLayer) and layer.is_pointwise)


def obstacle(layer: Layer, skipped: Mapping[str, str]) -> str:
    """Why a layer stays dense whatever a measurement says; ``""`` if nothing is in the way.

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
    """The calls of one layer in a forward pass, timed dense and sparse.

    Calls with inputs of one shape and order in memory take the same time: it is measured once, and counted for each.

    Args:
        layer: The layer.
        fault: Why it stays dense in any case, or ``""``; see `obstacle`.
        rounds: How often both are run.
        tolerance: The largest difference between their outputs, relative to the largest output.

    Attributes:
        layer: The layer.
        sparse: The sparse layer, if nothing is in the way.
    """

    def __init__(self, layer: Layer, fault: str, *, rounds: int, tolerance: float) -> None:
        self.layer, self.sparse = layer, None if fault else sparse_layer(layer)
        self._fault, self._rounds, self._tolerance = fault, rounds, tolerance
        self._seconds: dict[Any, dict[str, tuple[float, ...]]] = {}  # by shape
        self._calls: list[Any] = []

    def take(self, call: Call) -> None:
        """Compare and time a call that the dense layer has just answered."""
        inputs: Tensor = call.first
        if (len(call.args), *call.kwargs) not in ((1,), (0, "input")):
            self._fault = self._fault or "it is called with more than its input, or by another name"
        shape = (inputs.shape, inputs.stride(), inputs.dtype)
        self._calls.append(shape)
        if self._fault or self.sparse is None:
            return
        self._fault = self._compared(self.sparse, inputs, call.output)
        if not self._fault and shape not in self._seconds:
            pair = {"dense": _Unwatched(self.layer.module), "sparse": _Unwatched(self.sparse)}
            self._seconds[shape] = paired_latency(pair, (inputs,), rounds=self._rounds, clock=busy_clock())

    def row(self, margin: float) -> LayerSpeed:
        """What was found.

        Args:
            margin: So many times as fast must the sparse layer be.
        """
        row = LayerSpeed(self.layer.name, type(self.layer.module).__name__, density(self.layer))
        if not self._calls:
            return replace(row, reason="not called with this input")
        if self._fault:
            return replace(row, reason=self._fault)
        dense, sparse = (self._total(name) for name in ("dense", "sparse"))
        speedup = median(a / b for a, b in zip(dense, sparse, strict=True))
        return replace(
            row,
            dense_ms=1e3 * median(dense),
            sparse_ms=1e3 * median(sparse),
            speedup=speedup,
            reason="" if speedup >= margin else f"not {margin:g} times as fast",
        )

    def _total(self, name: str) -> list[float]:
        """Seconds of all calls, in each round."""
        return [sum(seconds) for seconds in zip(*(self._seconds[shape][name] for shape in self._calls), strict=True)]

    def _compared(self, layer: SparseLayer, inputs: Tensor, dense: Tensor) -> str:
        """What is wrong with the output of the sparse layer; ``""`` if nothing is."""
        try:
            sparse = layer(inputs)
        except (RuntimeError, NotImplementedError) as error:  # a torch without MKL, say
            return f"torch can't multiply it by a sparse weight: {(str(error).splitlines() or [''])[0]}"
        if (dense.dtype, dense.stride()) != (sparse.dtype, sparse.stride()):
            return "its output would have another type or another order in memory"
        difference = relative_difference(dense, sparse)
        return f"its output would differ by {difference:.0e}" if difference > self._tolerance else ""


class _Unwatched(nn.Module):
    """Runs a layer without the hooks that watch its calls."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer.forward(inputs)
        return outputs
