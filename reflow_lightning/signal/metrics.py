"""The metrics of a signal by name, and what has to be gathered for each: what nobody asks for is not computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from reflow_lightning.running.names import nearest

_GATHERED: Mapping[str, str] = MappingProxyType(
    {
        "mean": "moments",
        "variance": "moments",
        "total_variance": "moments",
        "dead": "moments",
        "saturated": "signs",
        "entropy": "signs",
        "class_share": "classes",
        "variance_ratio": "moments",
        "channel_ratio": "moments",
        "cosine": "cosine",
        "cka": "cka",
        "rectifier_entropy": "rectifiers",
        "rectifier_saturated": "rectifiers",
        "histogram": "histogram",
    }
)

WITH_REFERENCE = frozenset(("variance_ratio", "channel_ratio", "cosine", "cka"))
"""The metrics that compare with the dense network."""

HISTOGRAM = "histogram"
"""Asks for `SignalReport.histograms`. No default, since few people look at the distribution of each layer."""

METRICS = tuple(name for name in _GATHERED if name != HISTOGRAM)
"""All that are numbers: fields of `LayerSignal`, and of the `LayerEntropy` of rectifiers with ``rectifier_`` before."""

ALONE = tuple(name for name in METRICS if name not in WITH_REFERENCE)
"""Those that need no reference."""

OF_RECTIFIERS = MappingProxyType({"rectifier_entropy": "entropy", "rectifier_saturated": "saturated"})
"""Fields of `LayerEntropy` by the name of the metric."""

VARIANCE = ("variance",)
"""The cheapest choice: a pass over the outputs, and no Python for each operation of the network."""


def check_metrics(metrics: Sequence[str], known: Collection[str] = METRICS) -> tuple[str, ...]:
    """The metrics that a user asks for.

    Raises:
        ValueError: If they are no list of known names, or an empty one.

    Example:
        >>> check_metrics(["variance", "cka"])
        ('variance', 'cka')
        >>> check_metrics(["varianc"])
        Traceback (most recent call last):
        ValueError: metrics=['varianc'] must be a list of some of mean, ...rectifier_saturated; nearest: variance...
    """
    listed = isinstance(metrics, Collection) and not isinstance(metrics, str)
    unknown = [name for name in metrics if name not in known] if listed else [metrics]
    if unknown or not metrics:
        hint = nearest(unknown[0], known) if unknown and isinstance(unknown[0], str) else ""
        raise ValueError(f"metrics={metrics!r} must be a list of some of {', '.join(known)}{hint}")
    return tuple(metrics)


def gathered_for(metrics: Collection[str]) -> frozenset[str]:
    """What has to be gathered for metrics: the moments, which every row has, and what else they are computed from.

    Example:
        >>> sorted(gathered_for(["variance"])), sorted(gathered_for(["entropy", "cka"]))
        (['moments'], ['cka', 'moments', 'signs'])
    """
    return frozenset(("moments", *(_GATHERED[name] for name in metrics)))
