"""Interval arithmetic: between which values does the result lie, if the operands lie between those?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

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
    """The value of each channel that is the same everywhere, apart from rounding, else NaN; of shape (channels,)."""
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
    """The least and the greatest value at the ends of the interval and at the turning points within it.

    Args:
        run: Runs the function on other arguments.
        turns: The turning points.
        args: Its arguments; the first one has bounds, or that by the name of ``input``.
        kwargs: Those by name.
    """
    low, high = args[0] if args else kwargs["input"]

    def function(points: Tensor) -> Tensor:
        values: Tensor = run(points, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
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


def of_rising(run: Callable[..., Any], args: Any, kwargs: Any, nothing: Any) -> Any:
    """Of a step that never falls where its input grows, or ``nothing`` if it puts out something else than tensors."""
    low, high = (run(*_end(args, index), **_end(kwargs, index)) for index in (0, 1))
    if isinstance(low, Tensor):
        return clean(low, high)
    if not isinstance(low, (tuple, list)) or not all(isinstance(part, Tensor) for part in low):
        return nothing
    return tuple(clean(a, b) for a, b in zip(low, high, strict=True))


def _end(value: Any, index: int) -> Any:
    if isinstance(value, Bounds):
        return value[index].contiguous()  # which a view needs
    if isinstance(value, (tuple, list)):
        return type(value)(_end(part, index) for part in value)
    return {key: _end(part, index) for key, part in value.items()} if isinstance(value, dict) else value


def has_bounds(value: Any) -> bool:
    """Whether there are bounds among nested arguments."""
    if isinstance(value, Bounds):
        return True
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, (tuple, list)) and any(map(has_bounds, value))


def broadcast(*values: Tensor) -> list[Tensor]:
    """Views of tensors at the shape that they have together."""
    return cast("list[Tensor]", torch.broadcast_tensors(*values))  # type: ignore[no-untyped-call]


def times(a: Bounds, b: Bounds) -> Bounds:
    """Of the product."""
    ends = torch.stack(broadcast(*((x * y).nan_to_num(0.0, math.inf, -math.inf) for x in a for y in b)))
    return Bounds(ends.amin(0), ends.amax(0))
