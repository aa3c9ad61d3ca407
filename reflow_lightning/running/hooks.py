"""Watch the calls of modules. No other file of the package puts forward hooks on modules."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reflow_lightning.running.compat.torch import is_traceable_wrapper_subclass, tree_leaves, tree_map_only
from reflow_lightning.running.compat.transforms import is_batched
from reflow_lightning.running.eager import eager


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        args: Its positional arguments.
        kwargs: Its arguments by name.
        output: What it put out; ``None`` before the module has run.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any = None

    @property
    def first(self) -> Any:
        """The first argument; a subclass may give it another name."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    def argument(self, position: int, name: str) -> Any:
        """An argument that may be given by position or by name; ``None`` if it is not given."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name)


def in_type(call: Call, dtype: torch.dtype) -> Call:
    """The call with its floating-point tensors in a type, as autocast may have recorded them in others.

    Example:
        >>> in_type(Call((torch.ones(1),), {}, torch.ones(1).bfloat16()), torch.float32).output.dtype
        torch.float32
    """

    def convert(values: Tensor) -> Tensor:
        return values.to(dtype) if values.is_floating_point() else values

    converted: Call = tree_map_only(Tensor, convert, call)
    return converted


def plain(values: Tensor) -> Tensor:
    """A tensor of a subclass of one's own as an ordinary one, whose operators are torch's.

    Example:
        >>> class Named(Tensor):
        ...     pass
        >>> type(plain(torch.ones(2).as_subclass(Named))).__name__
        'Tensor'
    """
    ordinary = type(values) in (Tensor, nn.Parameter) or is_traceable_wrapper_subclass(values)
    return values if ordinary else values.as_subclass(Tensor)


def _told(listener: Callable[[str, Call], Any], name: str, call: Call) -> Any:
    """What a listener says to a call; one within `torch.vmap`, whose values can't be read, is passed over."""
    if any(map(is_batched, (*call.args, *call.kwargs.values(), call.output))):
        return None
    return listener(name, _plain(call))


def _plain(call: Call) -> Call:
    args, kwargs, output = call
    if not kwargs and all(type(value) is Tensor for value in args) and (output is None or type(output) is Tensor):
        return call  # most often, and sooner told
    if all(type(leaf) is Tensor or not isinstance(leaf, Tensor) for leaf in tree_leaves(call)):
        return call
    converted: Call = tree_map_only(Tensor, plain, call)
    return converted


Listener = Callable[[str, Call], Any]
"""``(module name, call) -> None``, or what takes the place of the module's output."""

InputListener = Callable[[str, Call], "tuple[tuple[Any, ...], dict[str, Any]] | None"]
"""``(module name, call) -> None``, or the arguments ``(args, kwargs)`` that the module is called with instead."""


@contextmanager
def watching(model: nn.Module, names: Iterable[str], listener: Listener) -> Iterator[None]:
    """Call the listener after each call of the named modules. What it returns, unless ``None``, is put out instead.

    A module that is named by two names is listened to by both. The block stands within `eager`. Calls within
    `torch.vmap` are passed over.

    Args:
        model: Any module.
        names: Names of modules within it; ``""`` is the model itself.
        listener: Takes the name and the call.

    Raises:
        AttributeError: If the model has no module of a name. Then no module is watched.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> with watching(model, ["0"], lambda name, call: call.output * 0):
        ...     model(torch.ones(1, 2)).abs().tolist()
        [[0.0, 0.0]]
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any, Any], Any]:
        return lambda _, args, kwargs, output: _told(listener, name, Call(args, kwargs, output))

    with ExitStack() as stack:
        stack.enter_context(eager())
        for name in names:
            module = model.get_submodule(name)
            stack.callback(module.register_forward_hook(hook(name), with_kwargs=True).remove)
        yield


@contextmanager
def watching_inputs(model: nn.Module, names: Iterable[str], listener: InputListener) -> Iterator[None]:
    """Call the listener before each call of the named modules, which may change what the module is called with.

    In all else it is like `watching`.

    Args:
        model: Any module.
        names: Names of modules within it; ``""`` is the model itself.
        listener: Takes the name and the call, whose output is ``None``.

    Raises:
        AttributeError: If the model has no module of a name. Then no module is watched.

    Example:
        >>> model = nn.Sequential(nn.Identity())
        >>> with watching_inputs(model, ["0"], lambda name, call: ((call.args[0] + 1,), {})):
        ...     model(torch.ones(1)).tolist()
        [2.0]
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        return lambda _, args, kwargs: _told(listener, name, Call(args, kwargs))

    with ExitStack() as stack:
        stack.enter_context(eager())
        for name in names:
            module = model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(hook(name), with_kwargs=True).remove)
        yield


@contextmanager
def listening(model: nn.Module, names: Iterable[str], listener: Listener) -> Iterator[None]:
    """Tell a listener of each call of the named modules before it; the model runs just as it would without.

    Unlike `watching_inputs` it changes neither the arguments nor how compiled code and attention run, so that it may
    stand around a step of a training.

    Args:
        model: Any module.
        names: Names of modules within it.
        listener: Takes the name and the call, whose output is ``None``.
    """
    with ExitStack() as stack:
        for name in names:
            telling = _Telling(name, listener)
            stack.callback(model.get_submodule(name).register_forward_pre_hook(telling, with_kwargs=True).remove)
        yield


class _Telling:
    def __init__(self, name: str, listener: Listener) -> None:
        self._name, self._listener = name, listener

    def __call__(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        _told(self._listener, self._name, Call(args, kwargs))

    def __reduce__(self) -> Any:
        return _Nothing, ()


def before_saving(module: nn.Module, act: Callable[[], None]) -> RemovableHandle:
    """Call a method before each ``state_dict()`` of a module.

    Args:
        module: The module. A copy of it, or what is pickled of it, is not watched.
        act: A bound method; its object is not held.

    Example:
        >>> class Counter:
        ...     count = 0
        ...     def add(self):
        ...         self.count += 1
        >>> counter, layer = Counter(), nn.Linear(1, 1)
        >>> handle = before_saving(layer, counter.add)
        >>> _ = layer.state_dict()
        >>> handle.remove()
        >>> counter.count
        1
    """
    handle: RemovableHandle = module.register_state_dict_pre_hook(_BeforeSaving(act))  # type: ignore[no-untyped-call]
    return handle


class _BeforeSaving:
    def __init__(self, act: Callable[[], None]) -> None:
        self._act = weakref.WeakMethod(act)

    def __call__(self, *_: Any) -> None:
        if (act := self._act()) is not None:
            act()

    def __reduce__(self) -> Any:
        return _Nothing, ()


class _Nothing:
    """What is left of a hook in a copy of its module."""

    def __call__(self, *_: Any, **__: Any) -> None:
        pass
