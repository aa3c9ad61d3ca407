"""A few values of each of many tensors, to see cheaply whether the tensors have changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from reflow_lightning.running.shards import local

_TRIED = 256
"""So many positions of a tensor are looked at, evenly spread."""

_READ = 2
"""So many values are read of each tensor: what moves a tensor as a whole moves any two."""

_READ_OF_ALL = 16
"""So many where nothing is known of the values: some may not take part."""


class Probe:
    """Reads a few values at fixed positions of some tensors: all at once, so that it takes few kernels.

    Args:
        tensors: The tensors; they are held.
        marks: Bool tensors of the same shapes; values are read where they are False.
        places: The places of the tensors that are read.
        count: Values that are read of each.

    Example:
        >>> tensors = [torch.zeros(2, 2), torch.zeros(3)]
        >>> probe = Probe(tensors, [torch.eye(2).bool(), torch.ones(3).bool()], places=[0, 1])
        >>> _ = tensors[0].fill_(7.0)
        >>> probe.nonzero()
        [0]
    """

    def __init__(
        self, tensors: Sequence[Tensor], marks: Sequence[Tensor], places: Iterable[int], count: int = _READ
    ) -> None:
        found = {place: _where_false(marks[place], count) for place in places}
        self._read = [place for place, positions in found.items() if positions.numel()]
        self._tensors = [tensors[place] for place in self._read]
        self._positions = [found[place] for place in self._read]

    @classmethod
    def of_all(cls, tensors: Sequence[Tensor]) -> Probe:
        """A probe of some tensors, as far as they are held here, that reads the values at its positions.

        Example:
            >>> [values.unique().tolist() for values in Probe.of_all([torch.ones(2), torch.zeros(1)]).values()]
            [[1.0], [0.0]]
        """
        tensors = [local(tensor) for tensor in tensors]
        nowhere = [torch.zeros((), dtype=torch.bool, device=tensor.device).expand(tensor.shape) for tensor in tensors]
        return cls(tensors, nowhere, range(len(tensors)), _READ_OF_ALL)

    @torch.no_grad()
    def values(self) -> list[Tensor]:
        """The values, one tensor for each tensor in which something is read."""
        return [
            torch.take(local(tensor.detach()), positions)
            for tensor, positions in zip(self._tensors, self._positions, strict=True)
        ]

    def nonzero(self) -> list[int]:
        """The places of the tensors in which a value that is read is not zero."""
        values = self.values()
        if not values or not _any_nonzero(values):
            return []
        return [index for index, value in zip(self._read, values, strict=True) if bool(value.any())]


def _any_nonzero(values: Sequence[Tensor]) -> bool:
    """Whether a value is not zero; one question a device and type."""
    kinds = {(value.device, value.dtype) for value in values}
    groups = [[value for value in values if (value.device, value.dtype) == kind] for kind in kinds]
    return any(bool(torch.cat(group).any()) for group in groups)


def _where_false(mark: Tensor, count: int) -> Tensor:
    """Positions in the flattened tensor, evenly spread, at which a bool tensor is False; none if it is so nowhere."""
    flat = mark.flatten()
    if not flat.numel():
        return flat.nonzero()[:, 0]
    found = _spread(flat.numel(), _TRIED, flat.device)
    found = found[~flat[found]]
    if not found.numel():  # few are False: take the first, if there is one
        first = flat.to(torch.uint8).argmin().view(1)
        found = first[~flat[first]]
    return found[_spread(found.numel(), count, flat.device)] if found.numel() else found


def _spread(size: int, count: int, device: torch.device) -> Tensor:
    """So many places in a row of some size, from the first to the last; some come twice if there are fewer."""
    return torch.linspace(0, size - 1, count, dtype=torch.float64).long().to(device)
