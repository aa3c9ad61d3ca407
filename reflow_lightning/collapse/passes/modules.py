"""Functions that are given parameters of the network: done by modules from now on, which the other passes know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from reflow_lightning.collapse.edits import Row, bypass, free_name, parameter_like, tidy
from reflow_lightning.collapse.graph.steps import Steps

_NORMS: Mapping[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
_TRANSPOSED: Mapping[int, type[nn.Module]] = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}


@torch.no_grad()
def use_modules(steps: Steps, values: Mapping[fx.Node, Any]) -> list[Row]:
    """Let a module do what a function does that is given parameters and buffers which no other step uses.

    So are BatchNorm with stored statistics and transposed convolutions written in a forward pass of one's own.

    Returns:
        What was replaced.
    """
    rows, values = [], dict(values)
    for node in steps:
        if node.op != "call_function" or node.target not in _MAKERS:
            continue
        names, make = _MAKERS[node.target]
        given = _given(steps, node, names.split())
        source = given.pop("input", None)
        value = values.get(source) if isinstance(source, fx.Node) else None
        module = make(value.ndim, **given) if isinstance(value, Tensor) else None
        if module is None:
            continue
        owned = next(str(held.target) for held in node.all_input_nodes if held.op == "get_attr")
        name = free_name(steps.traced, f"{owned.rpartition('.')[0]}.{node.target.__name__}".lstrip("."))
        steps.traced.add_submodule(name, module.eval())
        with steps.traced.graph.inserting_before(node):
            call = steps.traced.graph.call_module(name, (source,))
        values[call] = values[node]
        bypass(node, call)
        rows.append(Row("function", name, f"done by a {type(module).__name__}"))
    if rows:
        tidy(steps.traced)
    return rows


def _given(steps: Steps, node: fx.Node, names: list[str]) -> dict[str, Any]:
    """The arguments of a step by name, with the values of parameters and buffers; none if others use one of these."""
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    for name, value in given.items():
        if name == "input" or not isinstance(value, fx.Node):
            continue
        if value.op != "get_attr" or len(value.users) > 1 or steps.is_shared(value):
            return {}
        given[name] = steps.value(value)
    return given if given.keys() <= set(names) else {}


def _batchnorm(
    ndim: int,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: Any = False,
    momentum: Any = 0.1,
    eps: Any = 1e-5,
) -> nn.Module | None:
    """A BatchNorm layer that has these statistics; none where it is the batch that they are taken of."""
    tensors = [value for value in (running_mean, running_var, weight, bias) if value is not None]
    if training is not False or running_mean is None or running_var is None or ndim not in _NORMS:
        return None
    if not isinstance(eps, float) or any(not _is_row(tensor, len(running_mean)) for tensor in tensors):
        return None
    kind: Any = _NORMS[ndim]
    layer = kind(len(running_mean), eps=eps, device=running_mean.device, dtype=running_mean.dtype)
    layer.momentum = momentum if isinstance(momentum, float) else layer.momentum
    layer.running_mean, layer.running_var = running_mean.detach().clone(), running_var.detach().clone()
    layer.weight, layer.bias = _own(weight), _own(bias)
    layer.affine = weight is not None
    return layer  # type: ignore[no-any-return]


def _transposed(ndim: int, weight: Any, bias: Any = None, groups: Any = 1, **options: Any) -> nn.Module | None:
    """A transposed convolution that has this weight."""
    kind: Any = _TRANSPOSED.get(weight.ndim) if isinstance(weight, Tensor) else None
    if kind is None or not isinstance(groups, int) or any(map(_is_computed, options.values())):
        return None
    channels, size = (len(weight), weight.shape[1] * groups), tuple(weight.shape[2:])
    layer = kind(*channels, size, groups=groups, bias=False, device="meta", **options)
    layer.weight, layer.bias = _own(weight), _own(bias)
    return layer  # type: ignore[no-any-return]


def _is_row(value: Any, length: int) -> bool:
    return isinstance(value, Tensor) and value.shape == (length,) and value.is_floating_point()


def _is_computed(option: Any) -> bool:
    """Whether a step computes an option, or a part of it."""
    return any(isinstance(part, fx.Node) for part in (option if isinstance(option, (tuple, list)) else (option,)))


def _own(value: Tensor | None) -> nn.Parameter | None:
    return None if value is None else parameter_like(value.detach().clone(), value)


_MAKERS: Mapping[Any, tuple[str, Callable[..., nn.Module | None]]] = {
    functional.batch_norm: ("input running_mean running_var weight bias training momentum eps", _batchnorm),
    **dict.fromkeys(
        [functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d],
        ("input weight bias stride padding output_padding groups dilation", _transposed),
    ),
}
