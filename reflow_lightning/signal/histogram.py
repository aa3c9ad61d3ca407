"""How the values of a layer's output are distributed: a histogram that is counted batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from reflow_lightning.running.exact import as_exact
from reflow_lightning.signal.figures import STATES, new_figure, styled
from reflow_lightning.signal.profile_plot import short_names
from reflow_lightning.signal.statistic import Summed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reflow_lightning.signal.report import SignalReport

_SOME = 4096
"""So many values of each call of a layer are counted: a picture shows no more."""

_POSITIVE = tuple(10.0 ** (power / 8) for power in range(-40, 41))
EDGES = (*(-edge for edge in reversed(_POSITIVE)), *_POSITIVE)
"""The borders of the bins: eight in each power of ten from 1e-5 to 1e5, of both signs, and one bin around zero."""


class Histogram(NamedTuple):
    """Numbers of values between borders.

    Attributes:
        edges: The borders, one more than there are bins.
        counts: Number of values in each bin.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def value_counts(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Number of values in each bin, of some 4096 values that are spread evenly over the tensor.

    Values beyond 1e5 count in the last bin of their sign; what is not a number does not count.

    Args:
        values: Activations of shape (N, C, positions), any floating type.
        valid: Which positions hold data, of shape (N, positions); ``None``: all.

    Returns:
        Tensor of shape (bins,), in float64.

    Example:
        >>> value_counts(torch.tensor([[[0.0, 3.0, -3.0, float("nan")]]])).sum().item()
        3.0
    """
    flat = values.detach().flatten() if valid is None else values.movedim(1, -1)[valid.to(values.device)].flatten()
    flat = flat[_places(len(flat)).to(flat.device)]
    flat = flat[~flat.isnan()].float().clamp(EDGES[0], EDGES[-1] * (1 - 1e-6))
    places = torch.bucketize(flat, torch.tensor(EDGES, device=flat.device), right=True) - 1
    return as_exact(torch.bincount(places, minlength=len(EDGES) - 1))


def _places(size: int) -> Tensor:
    """Some 4096 places among so many, in order; drawn, since a fixed stride may meet a single channel or position."""
    if size <= _SOME:
        return torch.arange(size)
    width = size / _SOME
    seeded = torch.Generator("cpu").manual_seed(0)
    drawn = torch.rand(_SOME, generator=seeded, dtype=torch.float64, device="cpu")
    places = torch.arange(_SOME, dtype=torch.float64, device="cpu")
    return ((places + drawn) * width).long().clamp_(max=size - 1)


class ValueCounts(Summed[Histogram]):
    """Streaming histogram of all values of a layer; `update` takes the `value_counts` of a part.

    Args:
        channels: Number of channels of the layer, over which the values are pooled.

    Example:
        >>> statistic = ValueCounts(channels=1)
        >>> statistic.update(value_counts(torch.ones(2, 1, 3)))
        >>> statistic.compute().counts
        (6,)
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, state=torch.zeros(len(EDGES) - 1, dtype=torch.float64))

    def value(self) -> Histogram:
        """The bins from the first to the last that holds a value; without data one empty bin around zero."""
        found = self.state.nonzero().flatten().tolist() or [len(_POSITIVE) - 1]
        first, end = found[0], found[-1] + 1
        return Histogram(EDGES[first : end + 1], tuple(int(count) for count in self.state[first:end].tolist()))


@styled
def plot_histograms(profiles: Mapping[str, SignalReport], layers: Sequence[str], title: str | None = None) -> Figure:
    """Draw how the activations of some layers are distributed in several states of a network, a panel for each layer.

    Both axes are linear in the share of values and logarithmic in their size, of both signs: the activations of a
    network whose signal collapsed stand in a narrow peak around zero.

    Args:
        profiles: Reports by label, measured with the metric ``"histogram"``.
        layers: Names of layers, at least one, for which all reports have a histogram.
        title: Heading.

    Returns:
        A figure of its own, outside pyplot.

    Raises:
        ValueError: If no layer is named, or a report has no histogram of one.
    """
    missing = [layer for layer in layers if not all(layer in report.histograms for report in profiles.values())]
    if not layers or missing:
        raise ValueError(
            f"layers={list(layers)} must name at least one layer, and every report needs a histogram of each"
            f"{f': {missing[0]!r} has none' if missing else ''}; measure with metrics=(..., 'histogram')"
        )
    figure = new_figure(6.0, 0.9 + 1.5 * len(layers))
    panels = figure.subplots(len(layers), 1, sharex=True, squeeze=False)[:, 0]
    for axes, layer, name in zip(panels, layers, short_names(layers), strict=True):
        for label, report in profiles.items():
            edges, counts = report.histograms[layer]
            total = max(1, sum(counts))
            style = {key: STATES[label][key] for key in ("color", "linestyle") if key in STATES.get(label, {})}
            axes.stairs([100 * count / total for count in counts], edges, label=label, linewidth=2, **style)
        axes.set_xscale("symlog", linthresh=1e-3)
        axes.set_ylabel("% of values", fontsize=10)
        axes.set_title(name, fontsize=11)
    panels[-1].set_xlabel("activation, log scale of both signs")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(profiles))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure
