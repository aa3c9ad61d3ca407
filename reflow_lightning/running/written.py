"""Which tensors were written since somebody last looked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from reflow_lightning.running.compat.torch import times_written
from reflow_lightning.running.sharding import is_sharded


class Written:
    """Tells which of some tensors were written since it last looked, without reading a value.

    torch counts how often something wrote into a tensor, and ``tensor.data = other`` changes the address of its values.
    Neither tells of a write through ``tensor.data`` in place, such as ``tensor.data.mul_(2)``.

    Args:
        tensors: The tensors; they are held.

    Example:
        >>> import torch
        >>> tensors = [torch.zeros(2), torch.zeros(2)]
        >>> written = Written(tensors)
        >>> _ = tensors[1].add_(1)
        >>> written.since(), written.since()
        ([1], [1])
        >>> written.look([1])
        >>> written.since()
        []
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._marks = [_mark(tensor) for tensor in tensors]

    def look(self, indices: Iterable[int]) -> None:
        """Take some of the tensors as they are now."""
        for index in indices:
            self._marks[index] = _mark(self._tensors[index])

    def since(self) -> list[int]:
        """The places of the tensors that were written since."""
        pairs = enumerate(zip(self._tensors, self._marks, strict=True))
        return [index for index, (tensor, mark) in pairs if _mark(tensor) != mark]


def _mark(tensor: Tensor) -> tuple[int | None, int]:
    return times_written(tensor), 0 if is_sharded(tensor) else tensor.data_ptr()
