"""Private names of torch that tell tensors within transforms of functions, such as `torch.vmap`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_transformed(value: Any) -> bool:
    """Whether a value is a tensor within `torch.vmap`, `torch.func.grad`, `jvp` or another transform of functions.

    Example:
        >>> seen = []
        >>> _ = torch.func.grad(lambda x: seen.append(is_transformed(x)) or x)(torch.ones(()))
        >>> seen, is_transformed(torch.ones(2))
        ([True], False)
    """
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)


def is_batched(value: Any) -> bool:
    """Whether a value is a tensor that stands for many, within `torch.vmap`, and can't be read.

    Example:
        >>> seen = []
        >>> _ = torch.vmap(lambda x: seen.append(is_batched(x)) or x)(torch.ones(2, 3))
        >>> seen, is_batched(torch.ones(2, 3))
        ([True], False)
    """
    return isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value)
