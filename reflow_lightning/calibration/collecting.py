"""The moments of what layers put out, gathered call by call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.layers.find import find_layers
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.padding import Valid
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, in_type, watching
from reflow_lightning.running.units import held
from reflow_lightning.signal.statistic import of_all
from reflow_lightning.signal.statistics import ChannelMoments, MergedMoments, merge_moments, moments


class Collector:
    """The moments of the affine maps of some layers, by map name.

    Args:
        layers: The layers, by module name.
        device: Where the statistics are kept.

    Attributes:
        latest: The moments since this was emptied last.
        calls: How often each layer was called since this was emptied last.
        repeated: Whether a layer was called several times before this was emptied.
        valid: Which positions of the batch at hand are no padding.
    """

    def __init__(self, layers: Mapping[str, Layer], device: torch.device) -> None:
        self.layers = layers
        self.latest: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()
        self.repeated = False
        self.valid = Valid()
        self._found = {
            affine.name: MergedMoments(affine.channels).to(device) for layer in layers.values() for affine in layer.maps
        }

    def take_in(self, name: str, call: Call) -> None:
        """Gather the moments of all maps of a layer that was called."""
        self.calls[name] += 1
        self.repeated |= self.calls[name] > 1
        layer = self.layers[name]
        given = self.valid.call(in_type(call, layer.maps[0].weights[0].dtype), layer)
        with held(layer.module):
            outputs = layer.outputs(given)
        for affine, values in zip(layer.maps, outputs, strict=True):
            if values.shape[1] != affine.channels:
                raise ValueError(
                    f"layer '{name}' puts out {tuple(call.output.shape)}, not {affine.channels} channels where a "
                    f"{type(self.layers[name]).__name__} has them: register its type with layer_of"
                )
            rows = self.valid.rows(values, 1)
            part, before = moments(rows, 1 if rows is values else -1), self.latest.get(affine.name)
            self._found[affine.name].update(part)
            self.latest[affine.name] = part if before is None else merge_moments(torch.stack([before, part]))

    def so_far(self, name: str) -> ChannelMoments:
        """What was seen of a map on this process."""
        return self._found[name].value()

    def compute(self) -> dict[str, ChannelMoments]:
        """The moments over all processes."""
        merged = of_all(list(self._found.values()))
        return {name: statistic.value() for name, statistic in zip(self._found, merged, strict=True)}


def moments_of(model: nn.Module, layers: Iterable[str], batch: Any, forward: Forward) -> dict[str, Tensor]:
    """Moments of what some layers put out for a batch, by which it is judged how many batches there must be."""
    known = find_layers(model).known
    found = Collector({name: known[name] for name in layers}, torch.device("cpu"))
    with watching(model, found.layers, found.take_in):
        forward(model, batch)
    return found.latest
