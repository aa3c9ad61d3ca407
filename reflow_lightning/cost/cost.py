"""What a network costs: weights and multiply-adds, dense and effective, by layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.layers import layer_of
from reflow_lightning.running.arguments import Inputs, as_arguments
from reflow_lightning.running.batches import device_of
from reflow_lightning.running.compat.torch import TorchDispatchMode, operator_of
from reflow_lightning.running.hooks import eager
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

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def measure_cost(model: nn.Module, example_input: Tensor | Inputs) -> Cost:
    """Count weights and multiply-adds by running the model once, with torch's own ``FlopCounterMode``.

    Args:
        model: Any module. The elements of a weight are taken to multiply equally often, as they do in convolutions,
            linear layers and recurrent cells. Products between activations belong to no layer.
        example_input: One sample, as a batch of one, or a tuple of all positional arguments; moved to the model's
            device.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 10))
        >>> measure_cost(model, torch.zeros(1, 1, 8, 8)).multiply_adds
        4864
    """
    from torch.utils.flop_counter import FlopCounterMode, flop_registry  # here, since it loads triton

    arguments = as_arguments(example_input, device_of(model))
    counter, by_weight = FlopCounterMode(display=False), _CountByWeight(model, flop_registry)
    with isolated_rng(), only_training(model, ()), _plain_kernels(), counter, by_weight:
        model(*arguments)
    rows = (_layer(name, module, by_weight.counts) for name, module in model.named_modules())
    layers = tuple(row for row in rows if row is not None)
    parameters = list(model.parameters())
    total = counter.get_total_flops() // 2  # the counter takes a multiply-add for two operations
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        nonzero=sum(int(p.count_nonzero()) for p in parameters),
        multiply_adds=total,
        effective=total - sum(layer.multiply_adds - layer.effective for layer in layers),
        layers=layers,
    )


class _CountByWeight(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Multiply-adds by the weight that takes part, found by its memory: a layer may use it without being called."""

    def __init__(self, model: nn.Module, formulas: Mapping[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.formulas = formulas
        self.counts = {_memory(p): 0 for p in model.parameters() if p.ndim > 1 and p.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self.formulas.get(operator_of(func))
        weight = next((m for m in map(_memory, args) if m in self.counts), None) if formula else None
        if formula is not None and weight is not None:
            self.counts[weight] += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


def _memory(value: Any) -> int | None:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the fused kernels of attention and recurrent layers, which hide their matrix products."""
    with eager(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore", UserWarning)  # about TF32, which the first of these touches too
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


def _layer(name: str, module: nn.Module, counts: Mapping[int | None, int]) -> LayerCost | None:
    """The cost of a module's own weights, unless it has none that multiply."""
    known = layer_of.known(module, name)
    named = set() if known is None else {weight.name for weight in known.weights}
    weights = [p for own, p in module.named_parameters(recurse=False) if own in named or counts.get(_memory(p), 0)]
    if not weights:
        return None
    done = [counts.get(_memory(p), 0) for p in weights]
    nonzero = [int(p.count_nonzero()) for p in weights]
    effective = sum(count * kept // p.numel() for p, count, kept in zip(weights, done, nonzero, strict=True) if kept)
    return LayerCost(name, sum(p.numel() for p in weights), sum(nonzero), sum(done), effective)
