"""Where parameters keep their values: those that are set to zero must lie in memory once, and in one parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from reflow_lightning.running.compat.torch import is_traceable_wrapper_subclass
from reflow_lightning.running.live import extent
from reflow_lightning.running.sharding import is_sharded

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Span(NamedTuple):
    device: str
    start: int
    end: int  # addresses, from the first byte to behind the last
    name: str
    tensor: Tensor


def check_storage(parameters: Mapping[str, Tensor]) -> None:
    """Check that each value can be set to zero without changing another.

    Parameters that are spread over processes (DTensor) are taken to have memory of their own.

    Raises:
        ValueError: Names the parameters, what is the matter, and the remedy.

    Example:
        >>> check_storage({"weight": torch.zeros(2, 3).t()})
    """
    spans = []
    for name, parameter in parameters.items():
        tensor = parameter.detach()
        _check_kind(name, tensor)
        if tensor.numel() and not is_sharded(tensor):
            _check_strides(name, tensor)
            start = tensor.data_ptr()
            spans.append(_Span(str(tensor.device), start, start + extent(tensor), name, tensor))
    for group in _groups(sorted(spans, key=lambda span: span[:4])):
        _check_apart(group)


def _check_kind(name: str, tensor: Tensor) -> None:
    remedy = "prune before you convert it, or leave it out with exclude"
    if tensor.dtype not in _FLOATS:
        raise ValueError(f"parameter '{name}' is {tensor.dtype}, which torch can't calculate with: {remedy}")
    wrapper = is_traceable_wrapper_subclass(tensor) and not is_sharded(tensor)
    if tensor.is_nested or wrapper or tensor.layout != torch.strided:
        kind = "nested tensor" if tensor.is_nested else type(tensor).__name__ if wrapper else tensor.layout
        raise ValueError(f"parameter '{name}' is a {kind}, whose values can't be set one by one: {remedy}")


def _check_strides(name: str, tensor: Tensor) -> None:
    reach = 1  # of the dimensions so far, in elements
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < reach:
            raise ValueError(
                f"parameter '{name}' has elements that share memory, shape {tuple(tensor.shape)} with strides "
                f"{tensor.stride()}, as expand makes them: give each its own, parameter.data = "
                "parameter.data.contiguous(), or leave it out with exclude"
            )
        reach += (size - 1) * stride


def _groups(spans: list[_Span]) -> Iterator[list[_Span]]:
    """Spans, given in order, that reach into one another: most models have none."""
    group: list[_Span] = []
    end = 0
    for span in spans:
        if group and (span.device != group[0].device or span.start >= end):
            yield group
            group = []
        end = max(end, span.end) if group else span.end
        group.append(span)
    if group:
        yield group


def _check_apart(group: list[_Span]) -> None:
    """Spans may reach into one another and yet have no byte in common, such as every other column of one tensor."""
    if len(group) == 1:
        return
    owners = torch.zeros(max(span.end for span in group) - group[0].start, dtype=torch.int16)  # by byte; 0: none
    for number, span in enumerate(group, start=1):
        size, bytes_each = span.tensor.shape, span.tensor.element_size()
        strides = [stride * bytes_each for stride in span.tensor.stride()]
        own = owners.as_strided((*size, bytes_each), (*strides, 1), span.start - group[0].start)
        if other := int(own.max()):
            raise ValueError(
                f"parameters '{group[other - 1].name}' and '{span.name}' share memory, but are not one parameter: "
                "pruning one would prune the other; use the same Parameter for both, give one of them a clone(), or "
                "leave one out with exclude"
            )
        own.fill_(number)
