"""A copy of a batch, for a forward pass that is not the training's: a network may change what it is given."""

from __future__ import annotations

import copy
import gc
import types
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from reflow_lightning.running.processes import warn

_SHARED = (nn.Module, Dataset, DataLoader)
"""What a batch may refer to and does not hold."""

_ATOMS = (str, bytes, int, float, type(None), type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)

_WALKED = 100_000
"""At most so many objects of a batch are looked at for tensors."""


def own(batch: Any, told: set[str] | None = None) -> Any:
    """A copy of a batch of any type, as deep as it is nested, with the values, types and devices that it has.

    Two places that hold one tensor hold one copy. Tensors are detached and ask for gradients if they did. Modules and
    data sets that a batch refers to are not copied, nor what can't be, such as a generator: a warning names that. It
    takes the time and memory of copying the tensors once.

    Args:
        batch: Anything.
        told: The names of what a warning has named already, to be added to.

    Example:
        >>> import torch
        >>> batch = {"x": torch.ones(2)}
        >>> own(batch)["x"].zero_(), batch["x"]
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    if isinstance(batch, Tensor) and not vars(batch):  # most often
        return _clone(batch)
    within = _within(batch)
    memo: dict[int, Any] = {}
    for value in within:
        if isinstance(value, _SHARED):
            memo[id(value)] = value
        elif isinstance(value, Tensor):
            memo[id(value)] = _clone(value)
    try:
        return _copied(batch, within, memo)
    except Exception:  # a class of the user's may raise anything
        _share_what_fails(within, memo, set() if told is None else told)
        return _copied(batch, within, memo)


def _clone(tensor: Tensor) -> Tensor:
    cloned = tensor.detach().clone()
    return cloned.requires_grad_() if tensor.requires_grad else cloned


def _copied(batch: Any, within: list[Any], memo: dict[int, Any]) -> Any:
    memo = dict(memo)
    for value in within:
        if isinstance(value, Tensor) and vars(value) and memo.get(id(value)) is not value:
            vars(memo[id(value)]).update(copy.deepcopy(vars(value), memo))
    return copy.deepcopy(batch, memo)


def _within(batch: Any) -> list[Any]:
    """What a batch holds, itself included, what is held after what holds it."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [batch]
    while waiting and len(found) < _WALKED:
        value = waiting.pop()
        if isinstance(value, _ATOMS) or id(value) in seen:
            continue
        seen.add(id(value))
        found.append(value)
        if not isinstance(value, _SHARED):
            waiting += [vars(value)] if isinstance(value, Tensor) else gc.get_referents(value)
    return found


def _share_what_fails(within: list[Any], memo: dict[int, Any], told: set[str]) -> None:
    """Have what can't be copied stand for itself, or for what its own ``clone`` gives."""
    names = set()
    for value in reversed(within):  # what is held before what holds it
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:  # as above
            try:
                memo[id(value)] = value.clone()
            except Exception:
                memo[id(value)] = value
                names.add(type(value).__name__)
    if names - told:
        warn(
            f"a batch holds what can't be copied ({', '.join(sorted(names))}): forward passes that are not the "
            "training's get it as it is; let forward=... leave it unchanged, or give its class a __deepcopy__"
        )
        told |= names
