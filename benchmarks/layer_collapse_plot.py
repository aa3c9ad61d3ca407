"""Accuracy against the rectifiers that never switch, and against the layers that are really removed."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tables import Row

from reflow_lightning.signal.figures import BLACK, SERIES, new_figure, styled

SIZES = (4, 6, 8, 11, 14)  # in rings, since lines may coincide
COUNTS = {"never switch": "rectifiers of 17 that never switch", "layers removed": "layers of 21 removed by collapse"}


@styled
def plot(rows: Sequence[Row]) -> Figure:
    """Draw the table of `layer_collapse`, of which the first row is the dense network; a mark is a round."""
    arms = dict.fromkeys(row["allocation"] for row in rows[1:])
    figure = new_figure(10, 5)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (column, title) in zip(panels, COUNTS.items(), strict=True):
        axes.axhline(100 * rows[0]["accuracy"], color=BLACK, linestyle="--", linewidth=1.2, label="dense")
        for arm, style, size in zip(arms, SERIES, SIZES, strict=False):
            points = [(row[column], 100 * row["accuracy"]) for row in rows if row["allocation"] == arm]
            axes.plot(*zip(*points, strict=True), label=arm, **style, markersize=size, fillstyle="none")
        axes.set_xlabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("test accuracy, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
