"""The signal of every layer over a whole training, as one picture: layers from top to bottom, time to the right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from reflow_lightning.signal.figures import new_figure, styled
from reflow_lightning.signal.profile_plot import FLOOR, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reflow_lightning.signal.report import SignalReport

_MOST = 512  # columns; a picture of some 700 pixels shows no more
_EVENTS = 32
_SHARE = 0.05  # of the width, at least, that each state of a prune event takes


class Column(NamedTuple):
    """The variance of the layers at one moment.

    Attributes:
        step: Optimizer steps done.
        variances: By layer.
        state: Of a prune event: ``"pruned"`` or ``"repaired"``; ``""`` for a moment between events.
    """

    step: int
    variances: Mapping[str, float]
    state: str = ""


class VarianceHistory:
    """The variance of every layer over a training, in bounded memory.

    When there are too many moments, every other one is forgotten, and from then on every other one is passed over. Of
    more than 32 prune events every other one is forgotten, except the last.

    Args:
        most: So many moments are kept at most, beside prune events.

    Attributes:
        columns: What is kept, in the order of the training.
        seen: How many moments and states of events there were.
        events: How many prune events there were.

    Example:
        >>> history = VarianceHistory(most=4)
        >>> for step in range(10):
        ...     history.add(step, {"conv1": 1.0})
        >>> [column.step for column in history.columns]
        [0, 4, 8]
    """

    def __init__(self, most: int = _MOST) -> None:
        self.columns: list[Column] = []
        self._most = most
        self._stride = 1
        self._moments = 0
        self.seen = self.events = 0

    def add(self, step: int, variances: Mapping[str, float]) -> None:
        """Take in a moment of the training."""
        if self._moments % self._stride == 0:
            self.columns.append(Column(step, dict(variances)))
        self._moments += 1
        self.seen += 1
        between = _moments(self.columns)
        if len(between) > self._most:
            kept = set(map(id, between[::2]))
            self.columns = [column for column in self.columns if column.state or id(column) in kept]
            self._stride *= 2

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors, for a checkpoint."""
        names = layers_of(self.columns)
        found = [[column.variances.get(name, math.nan) for name in names] for column in self.columns]
        return {
            "layers": names,
            "steps": [column.step for column in self.columns],
            "states": [column.state for column in self.columns],
            "variances": torch.tensor(found, dtype=torch.float32),
            "moments": self._moments,
            "stride": self._stride,
            "events": self.events,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was.

        Example:
            >>> history, other = VarianceHistory(), VarianceHistory()
            >>> history.add(0, {"conv1": 1.0})
            >>> other.load_state_dict(history.state_dict())
            >>> other.columns == history.columns
            True
        """
        rows = zip(state["steps"], state["states"], state["variances"].tolist(), strict=True)
        self.columns = [
            Column(step, {name: v for name, v in zip(state["layers"], values, strict=True) if v == v}, label)
            for step, label, values in rows
        ]
        self._moments, self._stride, self.events = state["moments"], state["stride"], state.get("events", 0)

    def add_event(self, step: int, signal: Mapping[str, SignalReport]) -> None:
        """Take in what a prune event measured, if it did: the network pruned and repaired, in the layers known here."""
        self.events += 1
        known = layers_of(_moments(self.columns))
        for state in ("pruned", "repaired"):
            if state in signal:
                found = {name: v for name, v in signal[state].variances().items() if name in known or not known}
                self.columns.append(Column(step, found, state))
                self.seen += 1
        steps = list(dict.fromkeys(column.step for column in self.columns if column.state))
        if len(steps) > _EVENTS:
            kept = set(steps[::-2])
            self.columns = [column for column in self.columns if not column.state or column.step in kept]


def layers_of(columns: Sequence[Column]) -> list[str]:
    """The layers that any of the columns has, in their order."""
    return list(dict.fromkeys(name for column in columns for name in column.variances))


def _moments(columns: Sequence[Column]) -> list[Column]:
    """The columns between prune events."""
    return [column for column in columns if not column.state]


@styled
def plot_heatmap(columns: Sequence[Column], title: str | None = None) -> Figure:
    """Draw the variance of every layer over a training, on a logarithmic scale of colours.

    Moments stand side by side in the order of the training. The states of a prune event have a column each, wide enough
    to be seen: so a collapse is a dark bar, and its repair is the end of it.

    Args:
        columns: One or more. The rows of the picture are the layers that were measured between prune events. If there
            are prune events alone, the rows are their layers. A layer is white where a column did not measure it.
        title: Heading.

    Returns:
        A figure of its own, outside pyplot; variances below 1e-9 are drawn as that.

    Raises:
        ValueError: If there is no column, or no layer in them.

    Example:
        >>> columns = [Column(0, {"conv1": 1.0}), Column(9, {"conv1": 0.01}, "pruned")]
        >>> plot_heatmap(columns).axes[0].get_ylabel()
        'layer, from input to output'
    """
    from matplotlib.colors import LogNorm

    if not columns:
        raise ValueError("columns is empty: pass at least one, as VarianceHistory has them")
    names = layers_of(_moments(columns)) or layers_of(columns)
    if not names:
        raise ValueError("columns name no layer: measure at least one layer before the heat map is drawn")
    edges = _edges(columns)
    values = [[max(column.variances.get(name, float("nan")), FLOOR) for column in columns] for name in names]
    figure = new_figure(6.0, max(3.2, 1.6 + 0.19 * min(len(names), 32)))
    axes = figure.add_subplot()
    norm = LogNorm(*_limits(values))
    picture = axes.pcolormesh(edges, range(len(names) + 1), values, norm=norm, cmap="viridis", rasterized=True)
    figure.colorbar(picture, ax=axes, label="activation variance, log scale", pad=0.02)
    axes.grid(visible=False)
    axes.set_ylim(len(names), 0)
    step = -(-len(names) // 32)
    rows = list(range(0, len(names), step))
    axes.set_yticks([row + 0.5 for row in rows], [short_names(names)[row] for row in rows], fontsize=9)
    axes.set_ylabel("layer, from input to output")
    _name_times(axes, columns, edges)
    if title:
        axes.set_title(title)
    return figure


def _edges(columns: Sequence[Column]) -> list[float]:
    """The borders of the columns on the x-axis: of a moment 1 apart, of an event's state as far as can be seen."""
    between = sum(not column.state for column in columns)
    wide = max(1.0, _SHARE * between)
    edges = [0.0]
    for column in columns:
        edges.append(edges[-1] + (wide if column.state else 1.0))
    return edges


def _limits(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The range of the colours; a factor of ten at least, so that noise is not blown up."""
    found = [value for row in values for value in row if value == value and value < float("inf")]
    high = max(found, default=1.0)
    return min(min(found, default=0.1), high / 10), high


def _name_times(axes: Any, columns: Sequence[Column], edges: Sequence[float]) -> None:
    """Write the steps below the moments, and the states of events above theirs, as many as are readable."""
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    moments = [i for i, column in enumerate(columns) if not column.state] or [0]
    shown = moments[:: -(-len(moments) // 6)]
    axes.set_xticks([middles[i] for i in shown], [str(columns[i].step) for i in shown])
    axes.set_xlabel("optimizer step")
    events = [i for i, column in enumerate(columns) if column.state]
    above = axes.secondary_xaxis("top")
    above.spines["top"].set_visible(False)
    above.tick_params(length=0)
    if len(events) > 12:
        steps = [i for i in events if columns[i].state == "pruned"]
        some = steps[:: -(-len(steps) // 12)]
        above.set_xticks([middles[i] for i in some], ["pruned"] * len(some), rotation=60, ha="left", fontsize=9)
    else:
        above.set_xticks(
            [middles[i] for i in events], [columns[i].state for i in events], rotation=60, ha="left", fontsize=9
        )
