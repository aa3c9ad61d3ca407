"""Numbers of channels, the groups of them that are the same, and the dimension along which they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx


class Groups:
    """Numbers of channels in groups of equal ones; a union-find structure over tensors, for there may be millions.

    Example:
        >>> groups = Groups()
        >>> groups.unite(groups.new(3), torch.tensor([0, 1, 0]))
        >>> groups.find(2), groups.find(1)
        (0, 1)
    """

    def __init__(self) -> None:
        self._count = 0
        self._parents = torch.zeros(0, dtype=torch.int64)  # the number that stands for all that are the same
        self._pins = torch.zeros(0, dtype=torch.int64)  # of that number, the place of the reason, counted from 1, or 0
        self._reasons: list[str] = []

    def new(self, count: int) -> Tensor:
        """New numbers."""
        start, self._count = self._count, self._count + count
        if self._count > (size := len(self._parents)):  # twice as many as are needed, so that few calls copy
            self._parents = torch.cat([self._parents, torch.arange(size, 2 * self._count)])
            self._pins = torch.cat([self._pins, torch.zeros(2 * self._count - size, dtype=torch.int64)])
        return torch.arange(start, self._count)

    def find(self, number: int) -> int:
        """The number that stands for all that are the same."""
        return int(self._parents[number])

    def find_all(self, numbers: Tensor) -> Tensor:
        """`find` for each."""
        return self._parents[thin(numbers)].expand(numbers.shape)

    def unite(self, some: Tensor, others: Tensor) -> None:
        """Make each number and the other at its place the same."""
        first, second = (self._parents[numbers.reshape(-1)] for numbers in thinned(some, others))
        differ = first != second
        if not bool(differ.any()):
            return
        codes = distinct(first[differ] * self._count + second[differ])  # each pair once
        least = self._count
        for a, b in torch.stack([codes // self._count, codes % self._count], dim=1).tolist():
            low, high = sorted((self._root(a), self._root(b)))
            least = min(least, high)
            self._parents[high] = low
            if not self._pins[low]:
                self._pins[low] = self._pins[high]
        parents = self._parents[least : self._count]  # a number stands for itself or for later ones
        while bool((parents != (roots := self._parents[parents])).any()):
            parents.copy_(roots)  # so that every number points to the one that stands for it

    def _root(self, number: int) -> int:
        while (parent := int(self._parents[number])) != number:
            number = parent
        return number

    def pin(self, numbers: Tensor, reason: str) -> None:
        """Let these channels never be removed."""
        self._reasons.append(reason)
        roots = self.find_all(thin(numbers)).reshape(-1)
        pins = self._pins[roots]
        self._pins[roots] = pins.where(pins > 0, len(self._reasons))

    def is_pinned(self, numbers: Tensor) -> Tensor:
        """Which of these channels are never removed."""
        return (self._pins[self.find_all(thin(numbers))] > 0).expand(numbers.shape)

    def reason(self, number: int) -> str | None:
        """Why a channel is never removed; the first reason that was given, if there is any."""
        place = int(self._pins[self.find(number)])
        return self._reasons[place - 1] if place else None


@dataclass(frozen=True, eq=False)
class Axis:
    """The channel dimension of an activation, and the number of each channel along it."""

    dim: int
    numbers: Tensor


def thin(numbers: Tensor) -> Tensor:
    """The part of numbers that tells all of them: dimensions along which a view repeats them shrink to one.

    Example:
        >>> thin(torch.arange(2)[:, None].expand(2, 1000)).shape
        torch.Size([2, 1])
    """
    return thinned(numbers)[0]


def thinned(*several: Tensor) -> list[Tensor]:
    """`thin` of tensors of one shape, where all of them repeat themselves."""
    repeated = [d for d, size in enumerate(several[0].shape) if size and not any(x.stride(d) for x in several)]
    where = tuple(slice(1) if d in repeated else slice(None) for d in range(several[0].ndim))
    return [numbers[where] for numbers in several]


def rows(numbers: Tensor, dim: int) -> Tensor:
    """A row for each index along a dimension; of what repeats itself along the others only one element.

    Example:
        >>> rows(torch.arange(2)[:, None].expand(2, 1000), 0).tolist()
        [[0], [1]]
    """
    moved = numbers.movedim(dim, 0)
    shape = [len(moved), *thin(moved).shape[1:]]
    return thin(moved).expand(shape).reshape(len(moved), -1)


def along(numbers: Tensor) -> Axis | None:
    """The one dimension along which numbers vary.

    Example:
        >>> along(torch.tensor([[[1, 1], [2, 2]]])).dim, along(torch.tensor([[1, 2], [3, 4]]))
        (1, None)
    """
    if not numbers.numel():
        return None
    few = thin(numbers)
    varies = [d for d in range(few.ndim) if bool((few != few.narrow(d, 0, 1)).any())]
    if len(varies) != 1:
        return None
    (dim,) = varies
    return Axis(dim, rows(numbers, dim)[:, 0])


def spread(axis: Axis, shape: Sequence[int]) -> Tensor:
    """The numbers of an axis at every element of a shape."""
    view = [1] * len(shape)
    view[axis.dim] = -1
    return axis.numbers.view(view).expand(*shape)


def distinct(numbers: Tensor) -> Tensor:
    """Each of the numbers once."""
    found: Tensor = torch.unique(numbers)
    return found


@dataclass
class Channels:
    """What is known of the channels of a graph.

    Attributes:
        groups: Which are the same.
        labels: The number of each element's channel, by step.
        apart: Channels of one operand of an addition that may be missing there, since they are constant.
    """

    groups: Groups = field(default_factory=Groups)
    labels: dict[fx.Node, Any] = field(default_factory=dict)
    apart: dict[fx.Node, tuple[fx.Node, ...]] = field(default_factory=dict)

    def axis(self, node: fx.Node) -> Axis | None:
        """The channel dimension of a step's output, if there is one."""
        numbers = self.labels.get(node)
        return along(self.groups.find_all(numbers)) if isinstance(numbers, Tensor) else None


def is_numbers(value: Any) -> bool:
    """Whether a value is a tensor of channel numbers."""
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.device.type == "cpu"


def labels_of(value: Any) -> list[Tensor]:
    """The numbers among nested arguments."""
    if is_numbers(value):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [found for part in value for found in labels_of(part)] if isinstance(value, (tuple, list)) else []
