"""What a network costs: weights and multiply-adds, dense and effective, by layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.cost.counting import Count, ProductCounter
from reflow_lightning.cost.sparse_layers import SparseLayer
from reflow_lightning.layers import Computed, layer_of
from reflow_lightning.running.arguments import Arguments, Example, as_arguments, called, example_arguments
from reflow_lightning.running.batches import device_of
from reflow_lightning.running.compat.torch import own_parameters
from reflow_lightning.running.eager import eager
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.inference import ordinary, outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.nested import tensors
from reflow_lightning.running.processes import warn
from reflow_lightning.signal.report import format_table


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
class KindCost:
    """The cost of all layers of a kind, for one sample.

    Attributes:
        kind: The type of the modules that hold the parameters.
        parameters: Number of all of their parameters, biases included. One that is shared, such as the weight of a
            head that is tied to an embedding, belongs to the kind that holds it first.
        nonzero: How many of them are not zero.
        share: Share of all parameters of the network.
        multiply_adds: With the weights of this kind, by the kind that multiplies: of a tied head its own.
        effective: The same without those by a zero weight.
    """

    kind: str
    parameters: int
    nonzero: int
    share: float
    multiply_adds: int
    effective: int


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one sample.

    Attributes:
        parameters: Number of all parameters, biases and norms included.
        nonzero: How many of them are not zero.
        multiply_adds: Of all convolutions and matrix products.
        effective: Of these, what is left without multiplications by a zero weight. Dense kernels do not profit from it.
        layers: The layers that have weights.
        uncounted: Operators that multiply, or may do so, without a known formula; they are in no number.
        kinds: The kinds of layers, the largest first.
    """

    parameters: int
    nonzero: int
    multiply_adds: int
    effective: int
    layers: tuple[LayerCost, ...]
    uncounted: tuple[str, ...] = ()
    kinds: tuple[KindCost, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """The kinds of layers as text.

        Example:
            >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 1))
            >>> print(measure_cost(model, torch.zeros(1, 2, dtype=torch.long)).table())
            layer      parameters  nonzero  share  multiply_adds  effective
            Embedding          36       36  0.878              0          0
            Linear              5        5  0.122              8          8
        """
        return format_table([asdict(kind) for kind in self.kinds])


@outside_inference()
def measure_cost(model: nn.Module, example_input: Example, *, forward: Forward | None = None) -> Cost:
    """Count weights and multiply-adds by running the model once, in eval mode.

    The multiply-adds of a layer are all products with its weights, also where the layer is not called itself, or
    computes another tensor from the weights first. The elements of a weight are taken to multiply equally often, as
    they do in convolutions, linear layers, recurrent cells and attention. Products between activations belong to no
    layer. Neither padding nor a mask saves a product.

    It warns of operators that it can't count. A formula for one of your own is registered with
    ``torch.utils.flop_counter.register_flop_formula``.

    Args:
        model: Any module.
        example_input: One sample, as a batch of one, a tuple of all positional arguments, or a mapping such as a
            tokenizer gives, on which the model is run by the default forward; moved to the model's device.
        forward: ``(model, example_input) -> anything``, for a model that is called in another way; it is given all of
            the example, a tuple or a mapping as well.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 10))
        >>> measure_cost(model, torch.zeros(1, 1, 8, 8)).multiply_adds
        4864
    """
    if any(isinstance(module, SparseLayer) for module in model.modules()):
        warn(
            "the layers that sparse_linear has changed are not counted as layers: count the dense network, which has "
            "the same weights; sparse_report(model) has the times"
        )
    model = ordinary(model)
    arguments: Arguments
    if forward is None:
        arguments = example_arguments(model, example_input, device_of(model))
        run = partial(called, model, arguments)
    else:
        arguments = as_arguments((example_input,), device_of(model))
        run = partial(forward, model, *arguments)
    counter = ProductCounter(model, tuple(tensors(arguments)))
    with isolated_rng(), only_training(model, ()):
        with _plain_kernels(), counter.counting():
            run()
        counts, named = counter.layers, counter.parameters
        rows = [_layer(name, module, counts[name], named) for name, module in model.named_modules()]
    layers = tuple(row for row in rows if row is not None)
    uncounted = tuple(counter.uncounted)
    if uncounted:
        warn(
            f"the multiply-adds of {', '.join(uncounted)} are not counted, since no formula is known: register one "
            "with torch.utils.flop_counter.register_flop_formula, or add them by hand"
        )
    parameters = list(model.parameters())
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        nonzero=sum(int(p.count_nonzero()) for p in parameters),
        multiply_adds=counter.total,
        effective=counter.total - sum(layer.multiply_adds - layer.effective for layer in layers),
        layers=layers,
        uncounted=uncounted,
        kinds=_kinds(model, layers),
    )


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the fused kernels of attention and recurrent layers, which hide their matrix products."""
    with eager(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore", UserWarning)  # about TF32, which the first of these touches too
        torch.clear_autocast_cache()  # copies of weights that were not seen to be made
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


def _kinds(model: nn.Module, layers: Iterable[LayerCost]) -> tuple[KindCost, ...]:
    """The parameters and the multiply-adds of a model by the type of its modules, the largest first."""
    sizes: dict[str, list[int]] = {}
    seen: set[int] = set()
    for module in model.modules():
        for parameter in own_parameters(module).values():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                size = sizes.setdefault(_kind(module), [0, 0, 0, 0])
                size[0] += parameter.numel()
                size[1] += int(parameter.count_nonzero())
    modules = dict(model.named_modules())  # a scripted network has no get_submodule
    for layer in layers:
        size = sizes.setdefault(_kind(modules[layer.name]), [0, 0, 0, 0])
        size[2] += layer.multiply_adds
        size[3] += layer.effective
    every = max(1, sum(parameters for parameters, *_ in sizes.values()))
    rows = [KindCost(kind, size[0], size[1], size[0] / every, *size[2:]) for kind, size in sizes.items()]
    return tuple(sorted(rows, key=lambda row: -row.parameters))


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _layer(name: str, module: nn.Module, count: Count, parameters: Mapping[str, nn.Parameter]) -> LayerCost | None:
    """The cost of a module's own weights, unless it has none that multiply."""
    known = layer_of.known(module, name)
    own = [] if known is None else [getattr(module, weight.name, None) for weight in known.weights]
    weights = {id(weight): weight for weight in own if isinstance(weight, Tensor)}
    computed = (Computed.of(module, weight.name) for weight in (known.weights if known is not None else ()))
    stored = {id(found.stored) for found in computed if found is not None}  # by its norm the weight counts, not itself
    weights |= {id(parameters[used]): parameters[used] for used in count.names if id(parameters[used]) not in stored}
    if not weights:  # of an unknown layer, what it multiplies was made of these
        weights = {id(parameters[origin]): parameters[origin] for origin in count.origins}
    if not weights:
        return None
    return LayerCost(
        name=name,
        weights=sum(weight.numel() for weight in weights.values()),
        nonzero=sum(int(weight.count_nonzero()) for weight in weights.values()),
        multiply_adds=count.multiply_adds,
        effective=count.effective,
    )
