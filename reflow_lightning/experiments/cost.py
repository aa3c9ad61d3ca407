"""What a network costs: weights and multiply-adds, dense and effective, by layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reflow_lightning.pruning.select import weight_names
from reflow_lightning.running.isolation import isolated_rng, only_training


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer for one sample.

    Attributes:
        name: Name of the module.
        weights: Number of its weights, without biases.
        nonzero: How many of them are not zero.
        multiply_adds: Multiplications with an addition, as if all weights counted.
        effective: The same without those by a zero weight.
    """

    name: str
    weights: int
    nonzero: int
    multiply_adds: int
    effective: int


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one sample.

    Attributes:
        parameters: Number of all parameters, biases and norms included.
        nonzero: How many of them are not zero.
        multiply_adds: Of all convolutions and matrix products.
        effective: Of these, what is left without multiplications by a zero weight. No kernel of torch profits from it.
        layers: The layers that have weights.
    """

    parameters: int
    nonzero: int
    multiply_adds: int
    effective: int
    layers: tuple[LayerCost, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def measure_cost(model: nn.Module, inputs: Tensor) -> Cost:
    """Count weights and multiply-adds by running the model once, with torch's own ``FlopCounterMode``.

    Args:
        model: Any module. A layer's weights are taken to multiply equally often, as they do in convolutions, linear
            layers and recurrent cells.
        inputs: One sample, as a batch of one.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 10))
        >>> measure_cost(model, torch.zeros(1, 1, 8, 8)).multiply_adds
        4864
    """
    counter = FlopCounterMode(display=False)
    with isolated_rng(), only_training(model, ()), _plain_kernels(), counter:
        model(inputs)
    counts = counter.get_flop_counts()
    prefix = type(model).__name__
    inside_attention = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    layers = tuple(
        _layer(name, module, counts.get(f"{prefix}.{name}" if name else prefix, {}))
        for name, module in model.named_modules()
        if weight_names(module) and id(module) not in inside_attention
    )
    total = _multiply_adds(counts.get("Global", {}))
    parameters = list(model.parameters())
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        nonzero=sum(int(p.count_nonzero()) for p in parameters),
        multiply_adds=total,
        effective=total - sum(layer.multiply_adds - layer.effective for layer in layers),
        layers=layers,
    )


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the fused kernels of attention and recurrent layers, which hide their matrix products."""
    fused_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore", UserWarning)  # about TF32, which the first of these touches too
            with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_attention)


_BETWEEN_ACTIVATIONS = ("bmm", "attention")  # products in which no weight takes part


def _multiply_adds(counts: Mapping[Any, int], weighted: bool = False) -> int:
    return sum(
        count // 2  # the counter takes a multiply-add for two operations
        for operation, count in counts.items()
        if not (weighted and any(part in str(operation) for part in _BETWEEN_ACTIVATIONS))
    )


def _layer(name: str, module: nn.Module, counts: Mapping[Any, int]) -> LayerCost:
    parameters = module._parameters
    weights: list[Tensor] = [w for w in map(parameters.get, weight_names(module)) if w is not None]
    if isinstance(module, nn.MultiheadAttention):  # it never calls its last projection as a module
        weights.append(module.out_proj.weight)
    size, nonzero = sum(w.numel() for w in weights), sum(int(w.count_nonzero()) for w in weights)
    multiply_adds, weighted = _multiply_adds(counts), _multiply_adds(counts, weighted=True)
    return LayerCost(name, size, nonzero, multiply_adds, multiply_adds - weighted + weighted * nonzero // max(1, size))
