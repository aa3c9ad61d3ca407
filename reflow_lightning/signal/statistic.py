"""What is known of data that come in parts: a few tensors that merge exactly, over batches, calls and processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from reflow_lightning.running.gathered import gather_tensors
from reflow_lightning.running.processes import gather
from reflow_lightning.running.world import world_size

Value = TypeVar("Value")
Key = TypeVar("Key", bound=Hashable)
AnyStatistic = TypeVar("AnyStatistic", bound="Statistic[Any]")

Merge = Callable[[list[Tensor]], Tensor]
"""What disjoint data give together, from what each gives."""


def stacked(merge: Callable[[Tensor], Tensor]) -> Merge:
    """A `Merge` of tensors that all have one shape, from a function that takes them stacked.

    Example:
        >>> stacked(lambda parts: parts.sum(0))([torch.ones(2), torch.ones(2)])
        tensor([2., 2.])
    """
    return lambda parts: merge(torch.stack(parts))


class Statistic(ABC, Generic[Value]):
    """A statistic of the channels of a layer, for data that come in parts.

    A subclass names its tensors in ``merges``, passes what they are without data to ``__init__``, and says in `update`
    how a part changes them and in `value` what they tell. `update` assigns new tensors and never writes into the old
    ones. Wrapped by `reflow_lightning.callbacks.metrics.as_metric`, it is a metric of torchmetrics.

    Args:
        channels: Number of channels.
        empty: The tensors without data, by name.

    Attributes:
        merges: How each tensor merges, by name: `torch.cat`, or `stacked` of another function.
        higher_is_better: What torchmetrics asks of a metric; ``None`` if neither is.

    Example:
        >>> class Total(Statistic[torch.Tensor]):
        ...     merges = {"state": stacked(lambda parts: parts.sum(0))}
        ...     def update(self, values):
        ...         self.state = self.state + values.sum(0)
        ...     def value(self):
        ...         return self.state
        >>> statistic = Total(channels=2, state=torch.zeros(2))
        >>> statistic.update(torch.ones(5, 2))
        >>> statistic.compute()
        tensor([5., 5.])
    """

    merges: ClassVar[Mapping[str, Merge]]
    higher_is_better: ClassVar[bool | None] = None

    def __init__(self, channels: int, **empty: Tensor) -> None:
        self.channels = channels
        self._empty = empty
        self.reset()

    @abstractmethod
    def update(self, *part: Any, **more: Any) -> None:
        """Take in a part of the data."""

    def work_off(self) -> None:
        """Work off what waits in the state, so that it does not grow; most statistics let nothing wait."""

    @abstractmethod
    def value(self) -> Value:
        """What the data that were taken in here tell."""

    def compute(self) -> Value:
        """The `value` of the data of all processes; all must call this, with data or without."""
        return self.everywhere().value()

    def everywhere(self) -> Self:
        """The statistic of the data of all processes, which all must call this; this one keeps its own."""
        return of_all([self])[0]

    def merge_state(self, other: Self) -> None:
        """Take in what another statistic of the same kind has seen."""
        for name, merge in self.merges.items():
            mine: Tensor = getattr(self, name)
            setattr(self, name, merge([getattr(other, name).to(mine.device), mine]))

    def reset(self) -> None:
        """Forget all data."""
        for name, tensor in self._empty.items():
            setattr(self, name, tensor)

    def to(self, device: torch.device | str) -> Self:
        """Move the tensors to a device, which must have their types; returns the statistic itself."""
        self._empty = {name: tensor.to(device) for name, tensor in self._empty.items()}
        for name in self.merges:
            setattr(self, name, getattr(self, name).to(device))
        return self


class Summed(Statistic[Value]):
    """A statistic whose one tensor adds up what is counted in the parts."""

    merges = MappingProxyType({"state": stacked(lambda parts: parts.sum(0))})
    state: Tensor

    def update(self, *parts: Tensor) -> None:
        """Take in the numbers of parts, each of the shape of the state."""
        self.state = torch.stack([self.state, *(part.to(self.state.device) for part in parts)]).sum(0)


def of_all(statistics: Sequence[AnyStatistic]) -> list[AnyStatistic]:
    """Statistics of the data of all processes, from as many on each; those that are given keep their own.

    Args:
        statistics: Those of this process.

    Example:
        >>> from reflow_lightning.signal import Moments
        >>> of_all([Moments(channels=3)])[0].channels
        3
    """
    if world_size() == 1:
        return list(statistics)
    tensors = [getattr(statistic, name) for statistic in statistics for name in statistic.merges]
    gathered = iter(gather_tensors(tensors))
    found = [copy(statistic) for statistic in statistics]
    for statistic in found:
        for name, merge in statistic.merges.items():
            setattr(statistic, name, merge(next(gathered)))
    return found


def computed(
    statistics: Mapping[Key, Statistic[Value]], empty: Callable[[Key, int], Statistic[Value]]
) -> dict[Key, Value]:
    """The values of statistics over all processes, which all must call this with the statistics that they have.

    Args:
        statistics: The statistics of this process; others may have further ones, or lack some.
        empty: ``(key, channels) -> statistic`` without data, in the place of one that only other processes have.

    Returns:
        Values by key, in one order on all processes: first as the first process has them.

    Example:
        >>> from reflow_lightning.signal import Moments
        >>> statistic = Moments(channels=1)
        >>> statistic.update(torch.tensor([[1.0], [3.0]]))
        >>> computed({"conv1": statistic}, lambda key, channels: Moments(channels))["conv1"].mean.item()
        2.0
    """
    channels: dict[Key, int] = {}
    for reached in gather({key: statistic.channels for key, statistic in statistics.items()}):
        for key, width in reached.items():
            channels.setdefault(key, width)
    merged = of_all([statistics.get(key) or empty(key, width) for key, width in channels.items()])
    return {key: statistic.value() for key, statistic in zip(channels, merged, strict=True)}
