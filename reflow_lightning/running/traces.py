"""What a forward pass may change in a model even in evaluation mode, to be put back: buffers and plain attributes.

Fake-quant observers move their ranges, metrics count, modules keep what they computed last. A pass that is not the
training's leaves none of that behind.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reflow_lightning.running.compat.torch import own_attributes, own_buffers, own_children
from reflow_lightning.running.copies import copies_in
from reflow_lightning.running.copying import LARGEST, LONGEST
from reflow_lightning.running.inference import writing
from reflow_lightning.running.lent import is_lent
from reflow_lightning.running.sharding import is_sharded
from reflow_lightning.running.snapshot import can_be_written
from reflow_lightning.running.walks import check_no_walk
from reflow_lightning.running.written import Written

_SMALL = 4096
"""A parameter of so few elements may be a state, such as the scale of a quantizer that learns it by itself."""

_COMPARED = 2**20
"""A tensor of more bytes is not compared value by value, but by the count of what was written into it."""

_DEEP = 3
"""Containers within containers are looked into so deep."""


class Traces:
    """What forward passes may change in a model, as it is now: buffers, small parameters, attributes, children.

    It copies all buffers, small parameters (at most 4,096 elements) and untrained networks that are built like a
    trained one, since these may follow it in the forward pass; tensors and arrays among the attributes up to
    16 MiB, and containers of at most 10,000 items, three levels deep. It does not see what lies in objects of other
    classes, in slots or in classes. A module that still waits for its first forward pass is left out.

    Args:
        model: Any module.
        but: Modules whose buffers and parameters are not put back.

    Example:
        >>> class Counting(nn.Module):
        ...     calls = 0
        ...     def forward(self, x):
        ...         self.calls += 1
        ...         return x
        >>> model = Counting()
        >>> before = Traces(model)
        >>> _ = model(torch.ones(1))
        >>> before.restore()
        >>> model.calls
        0
    """

    def __init__(self, model: nn.Module, but: Iterable[nn.Module] = ()) -> None:
        left_out = list(but)
        passed_over = set(map(id, left_out))
        written = {id(parameter) for module in left_out for parameter in module.parameters()}
        modules = [module for module in model.modules() if not _is_waiting(module)]
        self._held: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for module in modules:
            self._held.append((own_children(module), dict(own_children(module))))
            if id(module) not in passed_over:
                self._held.append((own_buffers(module), dict(own_buffers(module))))
        self._attributes = [(module, own_attributes(module)) for module in modules]
        tensors, self._containers, self._arrays = _states([a for _, a in self._attributes], _storages(model))
        buffers = (b for module in modules if id(module) not in passed_over for b in own_buffers(module).values())
        copies = _parameters_of_copies(model)
        own = [p for p in model.parameters() if id(p) not in written and not is_lent(p)]
        own = [p for p in own if id(p) in copies or _is_small_parameter(p)]
        self._tensors = [t for t in (*tensors, *buffers, *own) if t is not None and can_be_written(t)]
        self._copies = [tensor.detach().clone() for tensor in self._tensors]
        self._written = Written(self._tensors)

    def changed(self) -> bool:
        """Whether something differs now, as far as one can tell without the values of tensors and arrays."""
        return (
            any(not _has_same(held, before) for held, before in self._held)
            or any(not _has_same(own_attributes(module), before) for module, before in self._attributes)
            or any(not _is_as_before(value, content) for value, content in self._containers)
            or bool(self._written.since())
        )

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what has changed since."""
        for held, before in self._held:
            if not _has_same(held, before):
                held.clear()
                held.update(before)
        for module, attributes in self._attributes:
            now = vars(module)
            for name in [name for name in own_attributes(module) if name not in attributes]:
                del now[name]
            now.update({name: value for name, value in attributes.items() if now.get(name) is not value})
        for value, content in self._containers:
            _fill(value, content)
        for array, values in self._arrays:
            array[...] = values
        written = set(self._written.since())
        for place, (tensor, copied) in enumerate(zip(self._tensors, self._copies, strict=True)):
            if place in written or not _is_equal(tensor.detach(), copied):
                if tensor.shape != copied.shape:  # an observer of quantization resizes its buffers in place
                    tensor.resize_(copied.shape)
                tensor.detach().copy_(copied)


@contextmanager
def parameters_kept(model: nn.Module) -> Iterator[None]:
    """Put back the parameters that the block writes, such as an average that a step moves; it copies all of them.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = layer.weight.detach().clone()
        >>> with parameters_kept(layer):
        ...     _ = layer.weight.data.mul_(2)
        >>> torch.equal(layer.weight, before)
        True
    """
    check_no_walk()  # whose others would see what the block writes, and lose what they write
    parameters = [p for p in model.parameters() if not is_sharded(p) and can_be_written(p)]
    copies = [parameter.detach().clone() for parameter in parameters]
    written = Written(parameters)
    try:
        yield
    finally:
        marked = set(written.since())
        with torch.no_grad(), writing(model):
            for place, (parameter, copied) in enumerate(zip(parameters, copies, strict=True)):
                if place in marked or not _are_equal(parameter.detach(), copied):
                    parameter.detach().copy_(copied)


def _states(
    attributes: Iterable[dict[str, Any]], own: set[int]
) -> tuple[list[Tensor], list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """Tensors, containers with their content, and arrays with their values, of attributes and what these contain."""
    tensors: list[Tensor] = []
    containers: list[tuple[Any, Any]] = []
    arrays: list[tuple[Any, Any]] = []
    seen: set[int] = set()
    waiting = [(value, _DEEP) for held in attributes for value in held.values()]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen or isinstance(value, nn.Parameter):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if can_be_written(value) and value.nbytes <= LARGEST and _storage(value) not in own:
                tensors.append(value)
        elif isinstance(value, (list, dict, set, deque)):
            if depth and len(value) <= LONGEST:
                containers.append((value, copy.copy(value)))
                waiting += [(item, depth - 1) for item in _items(value)]
        elif hasattr(value, "__array_interface__") and getattr(value, "ndim", 0) > 0 and value.nbytes <= LARGEST:
            arrays.append((value, value.copy()))
    return tensors, containers, arrays


def _storages(model: nn.Module) -> set[int]:
    """Where parameters and buffers have their values: an attribute that is a view of one is no state of its own."""
    tensors = (tensor for tensor in (*model.parameters(), *model.buffers()) if can_be_written(tensor))
    return {_storage(tensor) for tensor in tensors}


def _storage(tensor: Tensor) -> int:
    return 0 if is_sharded(tensor) else tensor.untyped_storage().data_ptr()


def _parameters_of_copies(model: nn.Module) -> set[int]:
    """The ids of the parameters of target and average networks: a forward pass may move them."""
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if len(trained) == sum(1 for _ in model.parameters()):
        return set()
    copies = (copy.name for copy in copies_in(model, trained))
    found = (model.get_submodule(name) for name in copies if not name.rpartition(".")[2].isdigit())  # a frozen block
    return {id(parameter) for module in found for parameter in module.parameters() if not is_sharded(parameter)}


def _is_small_parameter(parameter: Tensor) -> bool:
    return not is_lazy(parameter) and not is_sharded(parameter) and parameter.numel() <= _SMALL


def _is_equal(tensor: Tensor, copied: Tensor) -> bool:
    """Whether a tensor on the CPU has its values of before, as far as that is asked and torch can tell."""
    return tensor.device.type != "cpu" or tensor.nbytes > _COMPARED or _are_equal(tensor, copied)


def _are_equal(tensor: Tensor, copied: Tensor) -> bool:
    """Whether two tensors have the same values, as far as torch can tell."""
    try:
        return torch.equal(tensor, copied)
    except (NotImplementedError, RuntimeError):  # of a type without comparison
        return True


def _is_waiting(module: nn.Module) -> bool:
    return any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False))))


def _has_same(held: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a dictionary has the very objects that it had before."""
    return set(held.keys()) == set(before) and all(held[name] is value for name, value in before.items())


def _is_as_before(value: Any, content: Any) -> bool:
    """Whether a container has its content of before."""
    return len(value) == len(content) and all(a is b for a, b in zip(_items(value), _items(content), strict=True))


def _fill(value: Any, content: Any) -> None:
    """Give a container its content of before, unless it still has it."""
    if not _is_as_before(value, content):
        value.clear()
        value.extend(content) if isinstance(value, (list, deque)) else value.update(content)


def _items(value: Any) -> Iterable[Any]:
    return [x for pair in value.items() for x in pair] if isinstance(value, dict) else list(value)
