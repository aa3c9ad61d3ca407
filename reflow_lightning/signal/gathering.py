"""The statistics of the layers of a network, by kind: what was gathered so far."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.signal.cka import LinearCKA
from reflow_lightning.signal.classes import ClassShare
from reflow_lightning.signal.cosine import CenteredCosine
from reflow_lightning.signal.histogram import ValueCounts
from reflow_lightning.signal.leaving import leaving_out
from reflow_lightning.signal.neurons import Signs
from reflow_lightning.signal.statistic import Statistic, computed
from reflow_lightning.signal.statistics import MergedMoments

_KINDS: Mapping[str, Callable[[int], Statistic[Any]]] = MappingProxyType(
    {
        "moments": MergedMoments,
        "signs": Signs,
        "classes": ClassShare,
        "cosine": CenteredCosine,
        "cka": LinearCKA,
        "histogram": ValueCounts,
    }
)

_SUMMARIES = ("moments", "signs", "histogram")
"""Kinds that take in a summary of each call, and not its values."""

_MOST = 1 << 18
"""So many values of a layer wait at most: 1 MiB."""


class Gathering:
    """Statistics by kind and layer.

    What is taken in waits until there is enough of it, or until somebody asks: a statistic takes in many small parts
    at once in hardly more time than one.

    Args:
        device: Where the statistics are; it must have float64.

    Attributes:
        left_out: Why layers can't be measured, by name.

    Example:
        >>> found = Gathering(torch.device("cpu"))
        >>> found.take_in("signs", "conv1", 1, torch.tensor([[3.0], [1.0]]))
        >>> found.work_off()
        >>> found.values()["conv1"]["signs"].positive.item()
        3.0
    """

    def __init__(self, device: torch.device) -> None:
        self.left_out: dict[str, str] = {}
        self._device = device
        self._channels: dict[str, int] = {}
        self._statistics: dict[tuple[str, str], Statistic[Any]] = {}
        self._waiting: dict[tuple[str, str], list[tuple[Tensor, ...]]] = {}

    def take_in(self, kind: str, layer: str, channels: int, *values: Tensor) -> None:
        """Take in what one call of a layer gives.

        Raises:
            RuntimeError: If the layer had another number of channels before.
        """
        if channels != self._channels.setdefault(layer, channels):
            raise RuntimeError(f"it puts out {channels} channels, and {self._channels[layer]} before")
        waiting = self._waiting.setdefault((kind, layer), [])
        waiting.append(values)
        if len(waiting) * values[0].numel() > _MOST:
            self._work_off((kind, layer))

    def keep(self, layers: Container[str]) -> None:
        """Forget all other layers."""
        by_key: tuple[dict[tuple[str, str], Any], ...] = (self._statistics, self._waiting)
        for found in by_key:
            for key in [key for key in found if key[1] not in layers]:
                del found[key]
        for reasons in (self.left_out, self._channels):
            for layer in [layer for layer in reasons if layer not in layers]:
                del reasons[layer]

    def values(
        self, kinds: Container[str] = _KINDS, without: Container[tuple[str, str]] = ()
    ) -> dict[str, dict[str, Any]]:
        """What the data of all processes, which all must call this, tell of each layer that can be measured, by kind.

        Args:
            kinds: Which kinds.
            without: Kinds and layers to pass over.
        """
        wanted = {
            (kind, layer): self._statistics[kind, layer]
            for layer in self._channels  # in the order in which they were reached
            for kind in _KINDS
            if kind in kinds and (kind, layer) in self._statistics and layer not in self.left_out
            if (kind, layer) not in without
        }
        found: dict[str, dict[str, Any]] = {}
        for (kind, layer), value in computed(wanted, self._empty).items():
            found.setdefault(layer, {})[kind] = value
        return found

    def work_off(self) -> None:
        """Take in all that waits."""
        for key in list(self._waiting):
            self._work_off(key)

    def _work_off(self, key: tuple[str, str]) -> None:
        kind, layer = key
        parts = tuple(zip(*self._waiting.pop(key), strict=True))
        if key not in self._statistics:
            self._statistics[key] = self._empty(key, self._channels[layer])
        with leaving_out(self.left_out, layer):
            self._statistics[key].update(*(parts[0] if kind in _SUMMARIES else map(torch.cat, parts)))

    def _empty(self, key: tuple[str, str], channels: int) -> Statistic[Any]:
        return _KINDS[key[0]](channels).to(self._device)
