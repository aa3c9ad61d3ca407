"""One row of a report, from what was gathered of a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reflow_lightning.signal.neurons import mean_entropy, saturated_channels
from reflow_lightning.signal.report import LayerSignal
from reflow_lightning.signal.statistics import ChannelMoments, dead_channels


def row_of(name: str, found: Mapping[str, Any], dense: ChannelMoments | None) -> LayerSignal:
    """One layer's row.

    Args:
        name: Its name.
        found: What was gathered, by kind; the moments are always there.
        dense: The moments of the dense network, if it is compared with that.
    """
    channels: ChannelMoments = found["moments"]
    signs = found.get("signs")
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
        saturated=None if signs is None else float(saturated_channels(signs)),
        entropy=None if signs is None else float(mean_entropy(signs)),
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
