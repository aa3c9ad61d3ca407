"""A copy of a model that runs by itself."""

from __future__ import annotations

import copy
import gc
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.utils.data import DataLoader, Dataset

from reflow_lightning.running.compat.torch import inner_of_compiled, plain_attributes, run_uncompiled

LARGEST = 2**24
"""An array of more bytes is taken for data."""

LONGEST = 10_000
"""So is a container of more items, unless it holds modules."""

_WALKED = 100_000
"""At most so many objects of a model are looked at."""


def dense_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose modules are not compiled: compiled functions would go on running the modules of the original.

    What can't be copied, such as a lock, an open file or a stored loss, is shared with the original. So are data that
    the model holds: data sets, loaders, arrays of more than 16 MiB and containers of more than 10,000 items that are
    neither parameters, buffers nor modules. The copy takes the memory of one set of weights.

    Example:
        >>> import threading
        >>> import torch
        >>> model = nn.Linear(2, 2)
        >>> model.lock = threading.Lock()
        >>> model.compile(backend="eager")
        >>> dense = dense_copy(model)
        >>> _ = nn.init.zeros_(model.weight)
        >>> bool(dense(torch.ones(1, 2)).any())
        True
    """
    shared = {id(value): value for value in data_in(model)}
    for buffer in model.buffers():
        if isinstance(buffer, UninitializedBuffer):  # torch copies a waiting parameter, but no waiting buffer
            waiting = UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # type: ignore[call-arg]
            shared[id(buffer)] = waiting
    try:
        copied = copy.deepcopy(model, memo := dict(shared))
    except (TypeError, RuntimeError, AttributeError):
        copied = copy.deepcopy(model, memo := shared | {id(value): value for value in _uncopyable(model, shared)})
    for module in copied.modules():
        for name, value in plain_attributes(module).items():
            if (bound := _bound_anew(value, memo)) is not value:
                vars(module)[name] = bound
    for module in copied.modules():
        if inner_of_compiled(module) is None:  # what torch.compile returns for a module binds itself anew
            run_uncompiled(module)
    return copied


_NESTED = 3
"""Functions are looked for in containers that lie so deep in each other."""


def _bound_anew(value: Any, memo: Mapping[int, Any], depth: int = _NESTED) -> Any:
    """A function that holds modules or parameters, such as a lambda in a module's constructor, with their copies.

    ``deepcopy`` copies no function, so that it would go on running the original.

    Args:
        value: An attribute; lists, tuples and dictionaries are looked into.
        memo: The copies, by the ids of the originals.
        depth: So many containers within each other are looked into; one may hold itself.
    """
    if isinstance(value, types.FunctionType):
        return _function_anew(value, memo)
    if not depth or (type(value) in (list, tuple, dict) and len(value) > LONGEST):
        return value
    if type(value) in (list, tuple):
        items = [_bound_anew(item, memo, depth - 1) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else type(value)(items)
    if type(value) is dict:
        entries = {key: _bound_anew(item, memo, depth - 1) for key, item in value.items()}
        return value if all(entries[key] is value[key] for key in value) else entries
    return value


def _function_anew(function: types.FunctionType, memo: Mapping[int, Any]) -> types.FunctionType:
    def copied(value: Any) -> Any:
        return memo.get(id(value), value) if isinstance(value, (nn.Module, Tensor)) else value

    cells = []
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # empty so far
            held = None
        cells.append(cell if held is None or copied(held) is held else types.CellType(copied(held)))
    defaults = function.__defaults__ and tuple(map(copied, function.__defaults__))
    keywords = function.__kwdefaults__ and {name: copied(v) for name, v in function.__kwdefaults__.items()}
    old = (*(function.__closure__ or ()), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if all(a is b for a, b in zip((*cells, *(defaults or ()), *(keywords or {}).values()), old, strict=True)):
        return function
    anew = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, defaults, tuple(cells) if cells else None
    )
    anew.__kwdefaults__ = keywords
    anew.__dict__.update(function.__dict__)
    return anew


def data_in(model: nn.Module) -> list[Any]:
    """The data that a model holds beside its parameters and buffers, however deep: they are no part of the network.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1)
        >>> model.train_set = [torch.zeros(2**23)]
        >>> [tuple(value.shape) for value in data_in(model)]
        [(8388608,)]
    """
    return [value for value in walk(model) if _is_data(value)]


def walk(model: nn.Module) -> Iterator[Any]:
    """What a model holds beside its parameters and buffers, however deep, except what is within data."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    seen: set[int] = set()
    waiting = [value for module in model.modules() for value in plain_attributes(module).values()]
    while waiting and len(seen) < _WALKED:
        value = waiting.pop()
        if id(value) in seen or id(value) in own or isinstance(value, _PASSED_OVER):
            continue
        seen.add(id(value))
        yield value
        if not _is_data(value):
            waiting += gc.get_referents(value)


_PASSED_OVER = (nn.Module, type, types.ModuleType, types.FunctionType, types.MethodType, str, bytes, int, float)


def _is_data(value: Any) -> bool:
    if isinstance(value, (Dataset, DataLoader)):
        return True
    if isinstance(value, (list, tuple, dict, set)):
        return len(value) > LONGEST and not any(map(_is_module, _items(value)))
    return (isinstance(value, Tensor) or hasattr(value, "__array_interface__")) and value.nbytes > LARGEST


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _is_module(value: Any) -> bool:
    return isinstance(value, (nn.Module, nn.Parameter))


def _uncopyable(model: nn.Module, shared: dict[int, Any]) -> list[Any]:
    """Attributes of the modules that are neither parameters, buffers nor modules, and can't be copied."""
    found = []
    for module in model.modules():
        for value in plain_attributes(module).values():
            try:
                copy.deepcopy(value, memo=dict(shared))
            except Exception:  # a class of the user's may raise anything
                found.append(value)
    return found
