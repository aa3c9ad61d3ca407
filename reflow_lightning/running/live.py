"""Which memory operators have made, and how much of it is still in use."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.running.compat.torch import TorchDispatchMode, is_traceable_wrapper_subclass, tree_leaves


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the memory that operators have made and that is still in use, and the most there ever were.

    Attributes:
        now: Bytes in use.
        peak: The most there were at once.

    Example:
        >>> x = torch.zeros(100)
        >>> with LiveTensors() as live:
        ...     y = ((x + 1) * 2).sum()
        >>> live.now, live.peak
        (4, 800)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._known.update(storages((args, kwargs)))  # not made here: parameters, the input
        out = func(*args, **(kwargs or {}))
        for storage in storages(out):
            if storage not in self._known:
                self._known.add(storage)
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return out

    def _count(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def storages(values: Any) -> list[torch.UntypedStorage]:
    """The memory behind tensors; views share theirs."""
    tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor) and value.layout == torch.strided)
    return [tensor.untyped_storage() for tensor in tensors if not is_traceable_wrapper_subclass(tensor)]


def extent(tensor: Tensor) -> int:
    """Bytes from the first to behind the last element of a tensor that has some.

    Example:
        >>> extent(torch.zeros(4, 4)[:2, :2])
        24
    """
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
