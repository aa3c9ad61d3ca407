"""What a repair may change in a model: all that can be written, except what is left as it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from torch import nn

from reflow_lightning.layers.find import Layers, find_layers
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.compat.torch import BatchNorm

_LEFT: ContextVar[Collection[str]] = ContextVar("_LEFT", default=())

T = TypeVar("T")


@contextmanager
def leaving(names: Collection[str]) -> Iterator[None]:
    """A block in which repairs leave modules of a model, and what is within them, as they are.

    Example:
        >>> model = nn.ModuleDict({"net": nn.Linear(2, 2), "teacher": nn.Sequential(nn.Linear(2, 2))})
        >>> with leaving(["teacher"]):
        ...     list(layers_to_repair(model).known)
        ['net']
    """
    token = _LEFT.set(names)
    try:
        yield
    finally:
        _LEFT.reset(token)


def layers_to_repair(model: nn.Module) -> Layers:
    """`find_layers`, without what is left."""
    known, skipped = find_layers(model)
    return Layers(_without_left(known), _without_left(skipped))


def norms_to_repair(model: nn.Module) -> dict[str, BatchNorm]:
    """`batchnorm_layers`, without what is left."""
    return _without_left(batchnorm_layers(model))


def _without_left(found: Mapping[str, T]) -> dict[str, T]:
    within = tuple(f"{name}." for name in _LEFT.get())
    return {name: value for name, value in found.items() if not f"{name}.".startswith(within)}
