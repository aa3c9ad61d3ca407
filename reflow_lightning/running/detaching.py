"""Copies of what a loader is made of: reading them changes nothing that the running loader reads."""

from __future__ import annotations

import copy
import functools
import io
import types
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from reflow_lightning.running.compat.torch import forget_iterator, own_attributes
from reflow_lightning.running.generators import generator_types

_BYTES = 2**26
"""Arrays are copied up to so many bytes in all; what is larger is data, and read by both."""

_ITEMS = 1000
"""Of a container of more items the items themselves are shared."""

_DEEPEST = 50

_LIVE = frozenset(("threading", "queue", "multiprocessing", "concurrent", "socket", "asyncio"))
_AS_THEY_ARE = frozenset(("lightning", "pytorch_lightning", "lightning_fabric", "logging", "weakref"))
_ATOMS = (str, bytes, int, float, complex, range, slice, type(None), type, types.ModuleType, Enum, PurePath)


class Detaching:
    """Copies objects with the state that they keep; two places that hold one object hold one copy.

    Copied are objects of Python with their attributes, lists, dicts, sets, arrays, generators of random numbers, what
    functions and methods are bound to, and of modules what they hold beside parameters, buffers and modules. Data are
    shared: arrays from 64 MiB on in all, and the items of containers of more than 1000.

    Attributes:
        live: Names of types that can't be copied and change as they are read: generators, files, queues.

    Example:
        >>> order = [1, 2]
        >>> copies = Detaching()
        >>> copied = copies.of({"order": order, "lines": iter(x for x in order)})
        >>> copied["order"].clear()
        >>> order, copies.live
        ([1, 2], ['generator'])
    """

    def __init__(self) -> None:
        self.live: list[str] = []
        self._made: dict[int, Any] = {}
        self._cells: dict[int, types.CellType] = {}
        self._held: list[Any] = []  # or another object might get the id of one that is gone
        self._left = _BYTES

    def of(self, value: Any, depth: int = 0) -> Any:
        """The copy of an object, or the object itself where that keeps no state, or can't be copied."""
        if isinstance(value, _ATOMS) or depth > _DEEPEST:
            return value
        if id(value) not in self._made:
            self._held.append(value)
            self._made[id(value)] = value  # for what holds itself
            self._made[id(value)] = self._copy(value, depth + 1)
        return self._made[id(value)]

    def _copy(self, value: Any, depth: int) -> Any:
        root = type(value).__module__.partition(".")[0]
        if isinstance(value, Tensor) or all(hasattr(type(value), name) for name in ("__array_interface__", "nbytes")):
            return self._array(value)
        if isinstance(value, generator_types()):
            return copy.deepcopy(value)
        if isinstance(value, (list, dict, set, deque, bytearray, tuple, frozenset)):
            return self._container(value, depth)
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.of(value.__self__, depth))
        if type(value) is functools.partial:
            function, *args = [self.of(part, depth) for part in (value.func, *value.args)]
            return functools.partial(
                function, *args, **{name: self.of(part, depth) for name, part in value.keywords.items()}
            )
        if isinstance(value, (types.GeneratorType, io.IOBase)) or root in _LIVE:
            self.live.append(type(value).__name__)
            return value
        if hasattr(type(value), "__del__") or root in _AS_THEY_ARE:  # what it lets go of belongs to the original
            return value
        return self._object(value, depth)

    def _array(self, value: Any) -> Any:
        if isinstance(value, Tensor) and (value.requires_grad or value.layout != torch.strided):
            return value
        if value.nbytes > self._left:
            return value
        self._left -= value.nbytes
        return value.clone() if isinstance(value, Tensor) else value.copy()

    def _container(self, value: Any, depth: int) -> Any:
        deep = len(value) <= _ITEMS
        if isinstance(value, (tuple, frozenset)):
            items = [self.of(item, depth) for item in value] if deep else []
            if all(a is b for a, b in zip(items, value, strict=False)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        copied = self._made[id(value)] = copy.copy(value)
        if deep and isinstance(value, (list, dict, deque)):
            for key in list(value) if isinstance(value, dict) else range(len(value)):
                copied[key] = self.of(value[key], depth)
        return copied

    def _function(self, value: types.FunctionType, depth: int) -> Any:
        if not value.__closure__:
            return value
        new = [cell for cell in value.__closure__ if id(cell) not in self._cells]
        self._held += new
        self._cells |= {id(cell): types.CellType() for cell in new}
        cells = tuple(self._cells[id(cell)] for cell in value.__closure__)
        copied = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        copied.__kwdefaults__, copied.__qualname__ = value.__kwdefaults__, value.__qualname__
        vars(copied).update(vars(value))
        self._made[id(value)] = copied
        for cell in new:
            with suppress(ValueError):  # nothing is in it yet
                self._cells[id(cell)].cell_contents = self.of(cell.cell_contents, depth)
        return copied

    def _object(self, value: Any, depth: int) -> Any:
        try:
            copied: Any = object.__new__(type(value)) if type(value) is not object else value
        except TypeError:  # of a class that is written in C
            return value
        self._made[id(value)] = copied
        held = dict(_held_by(value))
        own = own_attributes(value).keys() if isinstance(value, nn.Module) else held.keys()
        for name, item in held.items():
            object.__setattr__(copied, name, self.of(item, depth) if name in own else item)
        if isinstance(value, DataLoader):
            forget_iterator(copied)
        return copied


def _held_by(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object, in its dictionary and in slots."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            place = f"_{kind.__name__.lstrip('_')}{name}" if private else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, place):
                yield place, getattr(value, place)
