"""`torch.inference_mode`, as in validations of Lightning: what is made there can be neither trained nor written later.

What is public works outside of it, so that a network can be trained after it was pruned, repaired or made within.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from reflow_lightning.running.copying import dense_copy


@contextmanager
def outside_inference() -> Iterator[None]:
    """Leave inference mode for a block, or for a function that this decorates; gradients stay off there.

    Example:
        >>> @outside_inference()
        ... def ones():
        ...     return torch.ones(2)
        >>> with torch.inference_mode():
        ...     ones().is_inference(), torch.ones(2).is_inference()
        (False, True)
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(mode=False), torch.no_grad():  # the first would let gradients be computed
        yield


@contextmanager
def writing(model: nn.Module) -> Iterator[None]:
    """Write into a model within the block; if its values were made in inference mode, they can be written only there.

    Example:
        >>> with torch.inference_mode():
        ...     layer = nn.Linear(2, 2)
        >>> with writing(layer):
        ...     layer.weight.fill_(1).is_inference()
        True
    """
    with torch.inference_mode() if _is_inference(model) else nullcontext():
        yield


def ordinary(model: nn.Module) -> nn.Module:
    """The model, or a copy of one that was made in inference mode, for what needs gradients, or asks about them.

    Example:
        >>> with torch.inference_mode():
        ...     layer = nn.Linear(2, 2)
        >>> ordinary(layer).weight.is_inference(), ordinary(layer) is layer
        (False, False)
    """
    return dense_copy(model) if _is_inference(model) else model


def _is_inference(model: nn.Module) -> bool:
    values = [value for value in (*model.parameters(), *model.buffers()) if not is_lazy(value)]
    return any(value.is_inference() for value in values)
