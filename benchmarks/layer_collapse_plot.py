"""Accuracy against the rectifiers that never switch, and against the layers that are really removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tables import Row

COLORS = ("#3b4a5a", "#2a9d8f", "#d1495b", "#edae49", "#4f9ac4")
MARKERS = (("s", 4), ("o", 4), ("o", 7), ("o", 10), ("o", 13))  # in rings, since lines may coincide
COUNTS = {"never switch": "rectifiers of 17 that never switch", "layers removed": "layers of 21 removed by collapse"}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the table of `layer_collapse`, of which the first row is the dense network; a mark is a round."""
    arms = dict.fromkeys(row["allocation"] for row in rows[1:])
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (column, title) in zip(panels, COUNTS.items(), strict=True):
        axes.axhline(100 * rows[0]["accuracy"], color="grey", linestyle="--", linewidth=1.2, label="dense")
        for arm, color, (marker, size) in zip(arms, COLORS, MARKERS, strict=True):
            points = [(row[column], 100 * row["accuracy"]) for row in rows if row["allocation"] == arm]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker=marker, markersize=size, fillstyle="none", color=color, label=arm)
        axes.set_xlabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test accuracy, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)
