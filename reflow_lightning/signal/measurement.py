"""Statistics of the chosen layers of a network, batch by batch, and over processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.processes import gather
from reflow_lightning.signal.cka import LinearCKA
from reflow_lightning.signal.classes import ClassShare
from reflow_lightning.signal.cosine import CenteredCosine
from reflow_lightning.signal.layer_entropy import RectifierStates
from reflow_lightning.signal.neurons import Signs, mean_entropy, saturated_channels
from reflow_lightning.signal.probe import channel_dim, is_time_first, listening
from reflow_lightning.signal.reading import read
from reflow_lightning.signal.report import LayerSignal, SignalReport
from reflow_lightning.signal.statistic import Statistic, computed
from reflow_lightning.signal.statistics import ChannelMoments, MergedMoments, by_channel, dead_channels

_KINDS: Mapping[str, Callable[[int], Statistic[Any]]] = {
    "moments": MergedMoments,
    "signs": Signs,
    "classes": ClassShare,
    "cosine": CenteredCosine,
    "cka": LinearCKA,
}


class Measurement:
    """Statistics of the chosen layers of a network, and how they compare with another measurement of the same batches.

    Args:
        model: The network.
        layers: Names of its modules.
        reference: Measurement of the dense network, made with ``comparable=True`` and one batch ahead of this one.
        comparable: Keep each batch's outputs, pooled over positions, so that another measurement can be compared.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        *,
        reference: Measurement | None = None,
        comparable: bool = False,
    ) -> None:
        self.layers = list(layers)
        self.reference = reference
        self.comparable = comparable
        self.batches = 0
        self.statistics: dict[tuple[str, str], Statistic[Any]] = {}  # by kind and layer
        self.pooled: dict[int, dict[str, list[Tensor]]] = {}
        self.rectifiers = RectifierStates(model)
        self._device = exact_device(next(model.parameters(), torch.zeros(0)))
        modules = {name: model.get_submodule(name) for name in layers}
        self._dims = {name: channel_dim(module) for name, module in modules.items()}
        self._time_first = {name for name, module in modules.items() if is_time_first(module)}

    @contextmanager
    def batch(self, model: nn.Module, labels: Tensor | None = None) -> Iterator[None]:
        """Take in what the layers put out during the block, which runs the model on one batch.

        Args:
            model: The network.
            labels: The classes of the batch's samples, if they are known.
        """
        pooled: dict[str, list[Tensor]] = {}

        def take_in(name: str, output: Tensor) -> None:
            if name in self._time_first and output.ndim == 3:
                output = output.transpose(0, 1)
            values = by_channel(output, self._dims[name])
            found = read(values)
            self._update("moments", name, values.shape[1], found.moments)
            self._update("signs", name, values.shape[1], found.signs)
            if labels is not None and len(labels) == len(found.pooled):  # a layer may see samples cut into windows
                self._update("classes", name, values.shape[1], found.pooled, labels)
            if self.comparable or self.reference is not None:
                pooled.setdefault(name, []).append(found.pooled)

        with listening(model, self.layers, take_in), self.rectifiers.counting(model):
            yield
        if self.reference is not None:
            self._compare(pooled, self.reference.pooled[self.batches])
        if self.comparable:
            self.pooled[self.batches] = pooled
        self.batches += 1

    def _update(self, kind: str, name: str, channels: int, *values: Tensor) -> None:
        key = (kind, name)
        if key not in self.statistics:
            self.statistics[key] = self._empty(key, channels)
        self.statistics[key].update(*values)

    def _empty(self, key: tuple[str, str], channels: int) -> Statistic[Any]:
        return _KINDS[key[0]](channels).to(self._device)

    def _compare(self, pooled: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> None:
        for name in pooled.keys() & expected.keys():
            if len(pooled[name]) != len(expected[name]):
                raise ValueError(
                    f"layer '{name}' is called {len(pooled[name])} times, {len(expected[name])} in the reference: "
                    "pass the dense copy of the model"
                )
            for values, dense in zip(pooled[name], expected[name], strict=True):
                if dense.shape != values.shape:
                    raise ValueError(
                        f"layer '{name}' puts out {tuple(values.shape)} (samples, channels), {tuple(dense.shape)} in "
                        "the reference: pass the dense copy of the model"
                    )
                for kind in ("cosine", "cka"):
                    self._update(kind, name, values.shape[1], values, dense.to(values.device))

    def report(self) -> SignalReport:
        """The statistics of every layer that was reached, in the order in which it was.

        Where processes run together, they cover the batches of all; each must call this, batches or not.

        Raises:
            ValueError: If none was.
        """
        batches = sum(gather(self.batches))
        found = self.everywhere()
        dense = self.reference.everywhere({"moments"}) if self.reference is not None else {}
        if not found:
            raise ValueError(f"the batches reached none of the layers {self.layers}: look at forward and at layers")
        rows = [
            _row(name, kinds, dense[name]["moments"] if "cosine" in kinds else None) for name, kinds in found.items()
        ]
        return SignalReport(tuple(rows), batches, self.rectifiers.rows())

    def everywhere(self, kinds: Container[str] = _KINDS) -> dict[str, dict[str, Any]]:
        """What the batches of all processes, which all must call this, told of each layer, by kind."""
        wanted = {key: statistic for key, statistic in self.statistics.items() if key[0] in kinds}
        found: dict[str, dict[str, Any]] = {}
        for (kind, name), value in computed(wanted, self._empty).items():
            found.setdefault(name, {})[kind] = value
        return found


def _row(name: str, found: Mapping[str, Any], dense: ChannelMoments | None) -> LayerSignal:
    """One layer's row; of ``found``, by kind, the moments and the signs are always there."""
    channels: ChannelMoments = found["moments"]
    ratios: dict[str, float | None] = {}
    if dense is not None:
        ratios["variance_ratio"] = float(_total_variance(channels)) / max(float(_total_variance(dense)), 1e-300)
        ratios["channel_ratio"] = _channel_ratio(channels.variance, dense.variance)
    return LayerSignal(
        name=name,
        channels=channels.mean.numel(),
        mean=float(channels.mean.mean()),
        variance=float(channels.variance.mean()),
        total_variance=float(_total_variance(channels)),
        dead=float(dead_channels(channels)),
        saturated=float(saturated_channels(found["signs"])),
        entropy=float(mean_entropy(found["signs"])),
        class_share=_number(found.get("classes")),
        cosine=_number(found.get("cosine")),
        cka=_number(found.get("cka")),
        **ratios,
    )


def _number(value: Tensor | None) -> float | None:
    return None if value is None else float(value)


def _total_variance(channels: ChannelMoments) -> Tensor:
    return channels.variance.mean() + channels.mean.var(correction=0)


def _channel_ratio(variance: Tensor, dense: Tensor) -> float | None:
    live = dense > 0
    ratios = (variance[live] / dense[live]).clamp(min=1e-12)
    return math.exp(float(ratios.log().mean())) if len(ratios) else None
