"""A copy of a model that runs by itself."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from reflow_lightning.running.compat.torch import inner_of_compiled, plain_attributes, run_uncompiled


def dense_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose modules are not compiled: compiled functions would go on running the modules of the original.

    What can't be copied, such as a lock, an open file or a stored loss, is shared with the original.

    Example:
        >>> import threading, torch
        >>> model = nn.Linear(2, 2)
        >>> model.lock = threading.Lock()
        >>> model.compile(backend="eager")
        >>> dense = dense_copy(model)
        >>> _ = nn.init.zeros_(model.weight)
        >>> bool(dense(torch.ones(1, 2)).any())
        True
    """
    try:
        copied = copy.deepcopy(model)
    except (TypeError, RuntimeError, AttributeError):
        copied = copy.deepcopy(model, memo={id(value): value for value in _uncopyable(model)})
    for module in copied.modules():
        if inner_of_compiled(module) is None:  # what torch.compile returns for a module binds itself anew
            run_uncompiled(module)
    return copied


def _uncopyable(model: nn.Module) -> list[Any]:
    """Attributes of the modules that are neither parameters, buffers nor modules, and can't be copied."""
    found = []
    for module in model.modules():
        for value in plain_attributes(module).values():
            try:
                copy.deepcopy(value)
            except Exception:  # whatever a class of the user's raises
                found.append(value)
    return found
