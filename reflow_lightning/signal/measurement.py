"""Statistics of the chosen layers of a network, batch by batch, and over processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from reflow_lightning.running.processes import gather, in_step
from reflow_lightning.signal.probe import channel_dim, listening
from reflow_lightning.signal.report import LayerSignal, SignalReport
from reflow_lightning.signal.statistics import (
    CenteredCosine,
    ChannelMoments,
    Moments,
    by_channel,
    dead_channels,
    exact_device,
)

_S = TypeVar("_S", Moments, CenteredCosine)


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
        self.moments: dict[str, Moments] = {}
        self.cosines: dict[str, CenteredCosine] = {}
        self.pooled: dict[int, dict[str, list[Tensor]]] = {}
        self._device = exact_device(next(model.parameters(), torch.zeros(0)))
        self._dims = {name: channel_dim(model.get_submodule(name)) for name in layers}

    @contextmanager
    def batch(self, model: nn.Module) -> Iterator[None]:
        """Take in what the layers put out during the block, which runs the model on one batch."""
        pooled: dict[str, list[Tensor]] = {}

        def take_in(name: str, output: Tensor) -> None:
            channels = by_channel(output, self._dims[name])
            if name not in self.moments:
                self.moments[name] = Moments(channels.shape[1]).to(self._device)
            self.moments[name].update(channels)
            if self.comparable or self.reference is not None:
                pooled.setdefault(name, []).append(channels.mean(-1))

        with listening(model, self.layers, take_in):
            yield
        if self.reference is not None:
            self._compare(pooled, self.reference.pooled[self.batches])
        if self.comparable:
            self.pooled[self.batches] = pooled
        self.batches += 1

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
                if name not in self.cosines:
                    self.cosines[name] = CenteredCosine(values.shape[1]).to(self._device)
                self.cosines[name].update(values, dense.to(values.device))

    def report(self) -> SignalReport:
        """The statistics of every layer that was reached, in the order in which it was.

        Where processes run together, they are those of the batches of all; each must call this, batches or not.

        Raises:
            ValueError: If none was.
        """
        batches = sum(gather(self.batches))
        _fill(self.moments, Moments, self._device)
        _fill(self.cosines, CenteredCosine, self._device)
        if self.reference is not None:
            _fill(self.reference.moments, Moments, self.reference._device)
        if not self.moments:
            raise ValueError(f"the batches reached none of the layers {self.layers}: look at forward and at layers")
        with in_step():
            channels = {name: moments.compute() for name, moments in self.moments.items()}
            cosines = {name: float(cosine.compute()) for name, cosine in self.cosines.items()}
            dense = {name: self.reference.moments[name].compute() for name in cosines} if self.reference else {}
        rows = [_row(name, found, cosines.get(name), dense.get(name)) for name, found in channels.items()]
        return SignalReport(tuple(rows), batches)


def _fill(statistics: MutableMapping[str, _S], kind: Callable[[int], _S], device: torch.device) -> None:
    """Add empty statistics of the layers that only other processes reached, and put all in one order."""
    widths: dict[str, int] = {}
    for reached in gather({name: statistic.state.shape[1] for name, statistic in statistics.items()}):
        widths |= {name: width for name, width in reached.items() if name not in widths}
    for name, width in widths.items():
        statistic = statistics.pop(name, None)
        if statistic is None:
            statistic = kind(width).to(device)
            statistic._update_count = 1  # no update is no reason for torchmetrics' warning here
        statistics[name] = statistic


def _row(name: str, channels: ChannelMoments, cosine: float | None, dense: ChannelMoments | None) -> LayerSignal:
    row = LayerSignal(
        name=name,
        channels=channels.mean.numel(),
        mean=float(channels.mean.mean()),
        variance=float(channels.variance.mean()),
        total_variance=float(_total_variance(channels)),
        dead=float(dead_channels(channels)),
    )
    if cosine is None or dense is None:
        return row
    return replace(
        row,
        variance_ratio=row.total_variance / max(float(_total_variance(dense)), 1e-300),
        channel_ratio=_channel_ratio(channels.variance, dense.variance),
        cosine=cosine,
    )


def _total_variance(channels: ChannelMoments) -> Tensor:
    return channels.variance.mean() + channels.mean.var(correction=0)


def _channel_ratio(variance: Tensor, dense: Tensor) -> float | None:
    live = dense > 0
    ratios = (variance[live] / dense[live]).clamp(min=1e-12)
    return math.exp(float(ratios.log().mean())) if len(ratios) else None
