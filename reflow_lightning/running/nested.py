"""Batches that nest tensors: in dicts, lists, tuples, named tuples and dataclasses."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def mapped(function: Callable[[Any], Any], batch: Any, is_leaf: Callable[[Any], bool] = _is_tensor) -> Any:
    """The same nested batch with what a function makes of its leaves; what is nested otherwise stays as it is.

    Containers are new, and keep their types. Of a dataclass the fields count that its ``__init__`` takes.

    Args:
        function: Is given each leaf.
        batch: The batch.
        is_leaf: What a leaf is; by default each tensor.

    Example:
        >>> import torch
        >>> mapped(lambda x: x + 1, {"x": [torch.zeros(1), "name"]})
        {'x': [tensor([1.]), 'name']}
    """
    if is_leaf(batch):
        return function(batch)
    of = partial(mapped, function, is_leaf=is_leaf)
    if isinstance(batch, MutableMapping):
        changed = copy.copy(batch)  # keeps its type
        for key, value in batch.items():
            changed[key] = of(value)
        return changed
    if isinstance(batch, Mapping):
        return type(batch)({key: of(value) for key, value in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(of, batch))
    if isinstance(batch, (tuple, list, deque)):
        return type(batch)(map(of, batch))
    if is_dataclass(batch) and not isinstance(batch, type):
        made = copy.copy(batch)
        for field in fields(batch):
            if field.init:
                object.__setattr__(made, field.name, of(getattr(batch, field.name)))  # it may be frozen
        return made
    return batch


def tensors(batch: Any) -> Iterator[Tensor]:
    """All tensors of a nested batch.

    Example:
        >>> import torch
        >>> list(tensors({"x": [torch.zeros(1), "name"]}))
        [tensor([0.])]
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, (tuple, list, deque)):
        for value in batch:
            yield from tensors(value)
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            if field.init:
                yield from tensors(getattr(batch, field.name))
