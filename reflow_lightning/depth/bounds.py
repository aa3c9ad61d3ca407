"""Interval arithmetic over a network: between which values does each activation lie, whatever the input is?

An activation whose bounds coincide is constant. That is known from the weights alone, exactly, position by position, so
that the borders of a padded convolution are seen as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from reflow_lightning.depth.steps import ACTIVATIONS, MOVES, PAIRS, POOLS, REDUCTIONS, SHAPES, Steps, broadcast

_RISING = ("maximum", "minimum", "index_add")
_FAR = 1e6  # where every activation function has reached its limit, and none overflows


class Bounds(NamedTuple):
    """The least and the greatest value of each element of a tensor, in float64; infinite where nothing is known."""

    low: Tensor
    high: Tensor

    @property
    def constant(self) -> Tensor:
        """Where only one value is possible."""
        return self.low == self.high

    def within(self, low: Tensor, high: Tensor) -> Bounds:
        """These bounds, where others hold as well."""
        return Bounds(self.low.maximum(low), self.high.minimum(high))


def uniform(bounds: Bounds, dim: int) -> Tensor:
    """The value of each channel that has the same one everywhere, else NaN; of shape (channels,)."""
    rows_low, rows_high = (end.movedim(dim, 0).reshape(end.shape[dim], -1) for end in bounds)
    same = (rows_low == rows_high).all(1) & (rows_low == rows_low[:, :1]).all(1) & rows_low[:, 0].isfinite()
    return rows_low[:, 0].where(same, torch.nan)


def unknown(like: Tensor) -> Bounds:
    """No bounds at all."""
    low = torch.full(like.shape, -math.inf, dtype=torch.float64)
    return Bounds(low, -low)


class BoundsInterpreter(fx.Interpreter):
    """Bounds of every step of a graph.

    Args:
        traced: The graph.
        values: What each step puts out for some input; only the shapes count, and what is no tensor.
        observed: Bounds of some steps' outputs that are known otherwise, as by measurement; they need to broadcast.

    Attributes:
        found: Bounds by step; of several outputs a tuple or list of them.

    Example:
        >>> from reflow_lightning.depth.tracing import trace
        >>> traced = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU6()))
        >>> shapes = {node: torch.zeros(1, 2) for node in traced.graph.nodes}
        >>> bounds = BoundsInterpreter(traced, shapes, {}).find()
        >>> [(b.low.min().item(), b.high.max().item()) for b in bounds.values()][:3]
        [(-inf, inf), (-inf, inf), (0.0, 6.0)]
    """

    def __init__(
        self, traced: fx.GraphModule, values: Mapping[fx.Node, Any], observed: Mapping[fx.Node, Bounds]
    ) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.steps = Steps(traced)
        self.values = values
        self.observed = observed
        self.found: dict[fx.Node, Any] = {}

    @torch.no_grad()
    def find(self) -> dict[fx.Node, Any]:
        """Bounds by step."""
        self.run(*(None for node in self.steps.traced.graph.nodes if node.op == "placeholder"))
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        """The bounds of a step, from those of the steps before."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        try:
            found = self._bounds(n, args, kwargs)
        except Exception:  # whatever a step raises that can't do with infinite values, or other types
            found = tree_map_only(Tensor, unknown, self.values[n])
        if n in self.observed and isinstance(found, Bounds):
            found = found.within(*self.observed[n])
        self.found[n] = found
        return found

    def _bounds(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        name = self.steps.name(node)
        nothing = tree_map_only(Tensor, unknown, self.values[node])
        if name == "get_attr":
            value = self.steps.value(node)
            known = isinstance(value, Tensor) and value.is_floating_point()
            value = value.cpu() if isinstance(value, Tensor) else value
            return Bounds(value.double(), value.double()) if known else value
        if name in SHAPES or name == "output" or not _has_bounds((args, kwargs)):
            return nothing
        run = self.steps.function(node)
        if name in ("conv", "linear"):
            return _affine(self.steps.module(node), args[0])
        if name == "batchnorm":
            return _batchnorm(self.steps.module(node), args[0])
        if name == "prelu":
            of_module = node.op == "call_module"
            return _of_activation(_prelu(self.steps.module(node)), (0.0,), args, kwargs) if of_module else nothing
        if name in ACTIVATIONS:
            return _of_activation(run, ACTIVATIONS[name], args, kwargs)
        if name in MOVES or name in POOLS or name in REDUCTIONS or name in _RISING:
            return _each_end(run, args, kwargs, nothing)
        if name in PAIRS and not kwargs and isinstance(nothing, Bounds):
            return _PAIRS[name](*map(_as_bounds, args))
        return nothing


def _prelu(module: Any) -> Callable[[Tensor], Tensor]:
    weight = module.weight.double().cpu()
    return lambda values: functional.prelu(values, weight)


def _has_bounds(value: Any) -> bool:
    if isinstance(value, Bounds):
        return True
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, (tuple, list)) and any(map(_has_bounds, value))


def _end(value: Any, index: int) -> Any:
    if isinstance(value, Bounds):
        return value[index]
    if isinstance(value, (tuple, list)):
        return type(value)(_end(part, index) for part in value)
    return {key: _end(part, index) for key, part in value.items()} if isinstance(value, dict) else value


def _each_end(run: Callable[..., Any], args: Any, kwargs: Any, nothing: Any) -> Any:
    """Of a step that never falls where its input grows."""
    low, high = (run(*_end(args, index), **_end(kwargs, index)) for index in (0, 1))
    if isinstance(low, Tensor):
        return _clean(low, high)
    if not isinstance(low, (tuple, list)):
        return nothing
    return tuple(_clean(a, b) for a, b in zip(low, high, strict=True))


def _clean(low: Tensor, high: Tensor) -> Bounds:
    """Infinities minus infinities, or times zero, tell nothing."""
    return Bounds(
        low.double().nan_to_num(-math.inf, math.inf, -math.inf), high.double().nan_to_num(math.inf, math.inf, -math.inf)
    )


def _of_activation(run: Callable[..., Any], turns: tuple[float, ...], args: Any, kwargs: Any) -> Bounds:
    """The least and the greatest value at the ends of the interval and at the turning points within it."""
    low, high = args[0] if args else kwargs["input"]

    def function(points: Tensor) -> Tensor:
        values: Tensor = run(points, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        return values.double()

    def at(points: Tensor) -> Tensor:
        values = function(points.clamp(-_FAR, _FAR))
        goes_on = points.isinf() & (values != function(points.clamp(-2 * _FAR, 2 * _FAR)))
        return values.where(~goes_on, values.sign() * math.inf)

    ends = [at(low), at(high)]
    for turn in turns:
        inside = (low < turn) & (turn < high)
        ends.append(at(torch.full_like(low, turn)).where(inside, ends[0]))
    stacked = torch.stack(ends)
    return Bounds(stacked.amin(0), stacked.amax(0))


def _affine(module: Any, given: Bounds) -> Bounds:
    """Of ``W x + b``: what the positive and what the negative weights make of both ends."""
    weight = module.weight.double().cpu()
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    bias = 0.0 if module.bias is None else _along(module.bias.double().cpu(), given.low, module)
    low, high = given

    def one_end(with_positive: Tensor, with_negative: Tensor, infinite: float) -> Tensor:
        total = _applied(module, with_positive, positive) + _applied(module, with_negative, negative) + bias
        endless = _reaches(module, with_positive, positive) | _reaches(module, with_negative, negative)
        return total.masked_fill(_along(endless, total, module), infinite)

    return Bounds(one_end(low, high, -math.inf), one_end(high, low, math.inf))


def _applied(module: Any, values: Tensor, weight: Tensor) -> Tensor:
    """The map without its bias, of finite values; infinite ones are left out, as infinity times zero is no number."""
    finite = values.masked_fill(values.isinf(), 0.0)
    if isinstance(module, nn.Linear):
        used = finite.flatten(0, -2).any(0)  # most are zero: then there is little to multiply
        return functional.linear(finite[..., used], weight[:, used])
    if module.groups != 1:
        convolved: Tensor = module._conv_forward(finite, weight, None)
        return convolved
    used = finite.transpose(0, 1).flatten(1).any(1)
    used[0] = True  # a convolution wants one
    convolved = module._conv_forward(finite[:, used], weight[:, used], None)
    return convolved  # noqa: RET504  (its type is known here)


def _reaches(module: Any, values: Tensor, weight: Tensor) -> Tensor:
    """Which output channels an infinite value reaches; of shape (channels,). One at any position counts for all."""
    if isinstance(module, nn.Linear):
        infinite = values.isinf().flatten(0, -2).any(0)
    else:
        infinite = values.isinf().transpose(0, 1).flatten(1).any(1)
    groups = getattr(module, "groups", 1)
    reading = (weight != 0).flatten(2).any(2) if weight.ndim > 2 else weight != 0
    by_group = zip(reading.chunk(groups), infinite.chunk(groups), strict=True)
    return torch.cat([(rows & inputs).any(1) for rows, inputs in by_group])


def _along(values: Tensor, like: Tensor, module: Any) -> Tensor:
    return values if isinstance(module, nn.Linear) else values.view(-1, *[1] * (like.ndim - 2))


def affine_of_batchnorm(module: Any) -> tuple[Tensor, Tensor]:
    """The factor and the shift that a BatchNorm layer in eval mode applies to each channel, in float64."""
    variance, mean = module.running_var.double().cpu(), module.running_mean.double().cpu()
    factor = (variance + module.eps).rsqrt()
    if module.weight is not None:
        factor = factor * module.weight.double().cpu()
    bias = 0.0 if module.bias is None else module.bias.double().cpu()
    return factor, bias - mean * factor


def _batchnorm(module: Any, given: Bounds) -> Bounds:
    factor, shift = (values.view(-1, *[1] * (given.low.ndim - 2)) for values in affine_of_batchnorm(module))
    product = _times(given, Bounds(factor, factor))
    return Bounds(product.low + shift, product.high + shift)


def _as_bounds(value: Any) -> Bounds:
    if isinstance(value, Bounds):
        return value
    number = torch.as_tensor(value, dtype=torch.float64)
    return Bounds(number, number)


def _add(a: Bounds, b: Bounds) -> Bounds:
    return _clean(a.low + b.low, a.high + b.high)


def _sub(a: Bounds, b: Bounds) -> Bounds:
    return _clean(a.low - b.high, a.high - b.low)


def _times(a: Bounds, b: Bounds) -> Bounds:
    ends = torch.stack(broadcast(*((x * y).nan_to_num(0.0, math.inf, -math.inf) for x in a for y in b)))
    return Bounds(ends.amin(0), ends.amax(0))


def _divide(a: Bounds, b: Bounds) -> Bounds:
    if not bool((b.constant & (b.low != 0)).all()):
        return unknown(broadcast(a.low, b.low)[0])
    return _times(a, Bounds(1 / b.low, 1 / b.low))


_PAIRS: Mapping[str, Callable[[Bounds, Bounds], Bounds]] = {
    "add": _add,
    "sub": _sub,
    "mul": _times,
    "truediv": _divide,
}
