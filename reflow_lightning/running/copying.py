"""A copy of a model that runs by itself."""

from __future__ import annotations

import copy

from torch import nn


def dense_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose modules are not compiled: compiled functions would go on running the modules of the original.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 2)
        >>> model.compile(backend="eager")
        >>> dense = dense_copy(model)
        >>> _ = nn.init.zeros_(model.weight)
        >>> bool(dense(torch.ones(1, 2)).any())
        True
    """
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if "_orig_mod" in module._modules:  # what torch.compile returns for a module binds itself anew
            continue
        vars(module)["_compiled_call_impl"] = None
        compiled = [name for name, value in vars(module).items() if hasattr(value, "_torchdynamo_orig_callable")]
        for name in compiled:  # what Lightning puts in the place of the methods of a compiled LightningModule
            del vars(module)[name]
    return copied
