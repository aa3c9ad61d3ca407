"""What each weight of a layer multiplies: sums of squares of the layer's inputs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from reflow_lightning.running.compat.torch import Convolution, TransposedConvolution, padding_sides
from reflow_lightning.running.exact import exact
from reflow_lightning.running.isolation import isolated_rng

Energies = Iterator[tuple[str, Tensor]]
"""Names of weights within a module, and sums of squares of what each element multiplies, of its shape or broadcast."""


def _linear(module: nn.Linear, args: Mapping[str, Any]) -> Energies:
    yield "weight", _last(_first(args))


def _convolution(module: Convolution, args: Mapping[str, Any]) -> Energies:
    """Every position under the kernel, with any stride, padding, dilation and groups."""
    rank = len(module.kernel_size)
    values = _first(args)
    squares = exact(values).square().reshape(-1, *values.shape[-1 - rank :]).sum(0)  # (C, ...)
    sides = padding_sides(module)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(squares[None], sides, mode)[0] if any(sides) else squares
    for axis, (kernel, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=1
    ):
        padded = padded.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    energy = padded.sum(tuple(range(1, 1 + rank)))  # (C, *kernel)
    by_group = energy.view(module.groups, -1, *module.kernel_size)
    yield "weight", by_group.repeat_interleave(module.out_channels // module.groups, 0)


def _transposed_convolution(module: TransposedConvolution, args: Mapping[str, Any]) -> Energies:
    """Every position of a channel, also where padding cuts off what a kernel element makes of it."""
    rank = len(module.kernel_size)
    values = _first(args)
    squares = exact(values).square().reshape(-1, module.in_channels, math.prod(values.shape[-rank:])).sum((0, 2))
    yield "weight", squares.view(-1, *(1,) * (rank + 1))


def _attention(module: nn.MultiheadAttention, args: Mapping[str, Any]) -> Energies:
    query, key, value = (_last(args[name]) for name in ("query", "key", "value"))
    if module.in_proj_weight is None:
        yield from (("q_proj_weight", query), ("k_proj_weight", key), ("v_proj_weight", value))
    else:
        width = module.embed_dim
        yield "in_proj_weight", torch.cat([squares.expand(width, -1) for squares in (query, key, value)])
    weight, bias = module.out_proj.weight, module.out_proj.bias
    through = {"module.out_proj.weight": torch.eye(len(weight)).to(weight)}  # what the heads give, side by side
    if bias is not None:
        through["module.out_proj.bias"] = torch.zeros_like(bias)
    yield "out_proj.weight", _last(functional_call(_Unhooked(module), through, (), dict(args))[0])


def _recurrent(module: nn.RNNBase, args: Mapping[str, Any]) -> Energies:
    """Inputs and states of every step. The layers are run one by one, without the dropout between them."""
    values, states = args["input"], args.get("hx")
    if not isinstance(values, Tensor) or module.proj_size:
        raise ValueError("it gets a packed sequence" if not module.proj_size else "it has a proj_size")
    directions = 1 + module.bidirectional
    batched = values.ndim == 3
    if batched and module.batch_first:
        values = values.transpose(0, 1)
    values = (values if batched else values[:, None]).detach()  # (steps, N, features)
    if states is None:
        zeros = values.new_zeros(module.num_layers * directions, values.shape[1], module.hidden_size)
        states = (zeros, zeros) if isinstance(module, nn.LSTM) else zeros
    pair: tuple[Tensor, ...] = states if isinstance(states, tuple) else (states,)
    initial = [(state if batched else state[:, None]).detach() for state in pair]
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            end = f"l{layer}{'_reverse' if direction else ''}"
            first = [state[layer * directions + direction][None] for state in initial]
            sequence = values.flip(0) if direction else values
            output = _one_layer(module, end, sequence, first)
            yield f"weight_ih_{end}", _last(sequence)
            yield f"weight_hh_{end}", _last(torch.cat([first[0], output[:-1]]))
            outputs.append(output.flip(0) if direction else output)
        values = torch.cat(outputs, -1)


def _one_layer(module: nn.RNNBase, end: str, values: Tensor, first: list[Tensor]) -> Tensor:
    """The states (steps, N, hidden) of one layer and direction after each step."""
    options: dict[str, Any] = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNN) else {}
    kind: Any = type(module)
    sizes = (values.shape[-1], module.hidden_size)
    with isolated_rng():
        one = kind(*sizes, bias=module.bias, **options).to(values)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            parameter.copy_(getattr(module, name.replace("l0", end)))
        output: Tensor = one(values, tuple(first) if len(first) == 2 else first[0])[0]
    return output


def _cell(module: nn.RNNCellBase, args: Mapping[str, Any]) -> Energies:
    yield "weight_ih", _last(args["input"])
    states = args.get("hx")
    states = states[0] if isinstance(states, tuple) else states
    yield "weight_hh", args["input"].new_zeros(1) if states is None else _last(states)


def _first(args: Mapping[str, Any]) -> Tensor:
    values: Tensor = next(iter(args.values()))  # a subclass may call it otherwise
    return values


def _last(values: Tensor) -> Tensor:
    """Sum of squares of each feature, the last dimension."""
    return exact(values).square().reshape(-1, values.shape[-1]).sum(0)


class _Unhooked(nn.Module):
    """Runs a module without its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.training, self.module = module.training, module

    def forward(self, **kwargs: Any) -> Any:
        return self.module.forward(**kwargs)


_KINDS: tuple[tuple[type[nn.Module], Callable[[Any, Mapping[str, Any]], Energies]], ...] = (
    (nn.Linear, _linear),
    (TransposedConvolution, _transposed_convolution),
    (Convolution, _convolution),
    (nn.MultiheadAttention, _attention),
)
_RECURRENT: dict[type[nn.Module], Callable[[Any, Mapping[str, Any]], Energies]] = {  # other cells have other equations
    **dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM), _recurrent),
    **dict.fromkeys((nn.RNNCell, nn.GRUCell, nn.LSTMCell), _cell),
}


def input_energies(module: nn.Module) -> Callable[[Any, Mapping[str, Any]], Energies] | None:
    """The function that gives the sums of squares for a kind of module; ``None`` if that has none.

    It takes the module and the arguments of its ``forward`` by name, of one call.

    Raises:
        ValueError: The function, if it can't see the inputs in such a call.

    Example:
        >>> layer = nn.Conv1d(1, 1, 2)
        >>> dict(input_energies(layer)(layer, {"input": torch.tensor([[[1.0, 2.0, 3.0]]])}))
        {'weight': tensor([[[ 5., 13.]]], dtype=torch.float64)}
    """
    if type(module) in _RECURRENT:
        return _RECURRENT[type(module)]
    return next((function for kind, function in _KINDS if isinstance(module, kind)), None)


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names.

    Example:
        >>> named_arguments(nn.Linear(2, 3), ("x",), {})
        {'input': 'x'}
    """
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
