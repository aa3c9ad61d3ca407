"""Interval arithmetic: between which values does the result lie, if the operands lie between those?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.collapse.graph.running import attempted
from reflow_lightning.collapse.graph.steps import broadcast

_ROUNDING = 1e-12
_FAR = 1e100  # where every activation function has reached its limit, and none overflows in float64


class Bounds(NamedTuple):
    """The least and the greatest value of each element of a tensor, in float64; infinite where nothing is known."""

    low: Tensor
    high: Tensor

    @property
    def constant(self) -> Tensor:
        """Where only one value is possible."""
        return self.low == self.high

    def within(self, low: Tensor, high: Tensor) -> Bounds:
        """These bounds, where others hold as well; rounding never makes the one end pass the other."""
        return Bounds(self.low.maximum(low.minimum(self.high)), self.high.minimum(high.maximum(self.low)))


def uniform(bounds: Bounds, dim: int) -> Tensor:
    """The value of each channel that has the same one everywhere, but for rounding, else NaN; of shape (channels,)."""
    rows_low, rows_high = (end.movedim(dim, 0).reshape(end.shape[dim], -1) for end in bounds)
    first = rows_low[:, :1]
    alike = (rows_low - first).abs() <= _ROUNDING * first.abs()
    same = (rows_low == rows_high).all(1) & alike.all(1) & rows_low[:, 0].isfinite()
    return rows_low[:, 0].where(same, torch.nan)


def unknown(like: Tensor) -> Bounds:
    """No bounds at all."""
    low = torch.full(like.shape, -math.inf, dtype=torch.float64)
    return Bounds(low, -low)


def clean(low: Tensor, high: Tensor) -> Bounds:
    """Infinities minus infinities, or times zero, tell nothing."""
    return Bounds(
        low.double().nan_to_num(-math.inf, math.inf, -math.inf), high.double().nan_to_num(math.inf, math.inf, -math.inf)
    )


def of_activation(run: Callable[..., Any], turns: tuple[float, ...], args: Any, kwargs: Any) -> Bounds:
    """The least and the greatest value at the ends of the interval and at the turning points within it."""
    low, high = args[0] if args else kwargs["input"]

    def function(points: Tensor) -> Tensor:
        values: Tensor = attempted(run, points, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        return values.double()

    def at(points: Tensor) -> Tensor:
        far = points.sign() * _FAR
        values = function(points.where(points.isfinite(), far))
        goes_on = points.isinf() & (values != function(2 * far))
        return values.where(~goes_on, values.sign() * math.inf)

    ends = [at(low), at(high)]
    for turn in turns:
        inside = (low < turn) & (turn < high)
        ends.append(at(torch.full_like(low, turn)).where(inside, ends[0]))
    stacked = torch.stack(ends)
    return Bounds(stacked.amin(0), stacked.amax(0))


def of_affine(module: Any, given: Bounds) -> Bounds:
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


def of_batchnorm(module: Any, given: Bounds) -> Bounds:
    """Of a BatchNorm layer in eval mode."""
    factor, shift = (values.view(-1, *[1] * (given.low.ndim - 2)) for values in affine_of_batchnorm(module))
    product = _times(given, Bounds(factor, factor))
    return Bounds(product.low + shift, product.high + shift)


def as_bounds(value: Any) -> Bounds:
    """Bounds as they are; a number is its own."""
    if isinstance(value, Bounds):
        return value
    number = torch.as_tensor(value, dtype=torch.float64)
    return Bounds(number, number)


def _add(a: Bounds, b: Bounds) -> Bounds:
    return clean(a.low + b.low, a.high + b.high)


def _sub(a: Bounds, b: Bounds) -> Bounds:
    return clean(a.low - b.high, a.high - b.low)


def _times(a: Bounds, b: Bounds) -> Bounds:
    ends = torch.stack(broadcast(*((x * y).nan_to_num(0.0, math.inf, -math.inf) for x in a for y in b)))
    return Bounds(ends.amin(0), ends.amax(0))


def _divide(a: Bounds, b: Bounds) -> Bounds:
    if not bool((b.constant & (b.low != 0)).all()):
        return unknown(broadcast(a.low, b.low)[0])
    return _times(a, Bounds(1 / b.low, 1 / b.low))


OF_PAIRS: Mapping[str, Callable[[Bounds, Bounds], Bounds]] = {
    "add": _add,
    "sub": _sub,
    "mul": _times,
    "truediv": _divide,
}
