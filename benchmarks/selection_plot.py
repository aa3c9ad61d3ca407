"""Accuracy against sparsity: a panel for each repair, a line for each way to choose the weights."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from tables import Row

from reflow_lightning.signal.figures import SERIES, new_figure, styled


@styled
def plot(rows: Sequence[Row]) -> Figure:
    """Draw the table of `selection_or_signal`."""
    repairs = [column for column in rows[0] if column not in ("criterion", "sparsity")]
    criteria = list(dict.fromkeys(row["criterion"] for row in rows))
    figure = new_figure(11, 7)
    grid = figure.subplots(2, 3, sharey=True, sharex=True)
    for axes, repair in zip(grid.flat, repairs, strict=False):
        for criterion, style in zip(criteria, SERIES, strict=False):
            points = [(float(row["sparsity"]), 100 * row[repair]) for row in rows if row["criterion"] == criterion]
            axes.plot(*zip(*points, strict=True), label=criterion, **style)
        axes.set_title(f"repair: {repair}")
        axes.set_ylim(0, 100)
        axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(repairs) :]:
        axes.set_axis_off()
        axes.legend(*grid.flat[0].get_legend_handles_labels(), loc="center", title="weights chosen by", ncols=2)
    figure.supxlabel("sparsity", fontsize=12)
    figure.supylabel("top-1 accuracy, %", fontsize=12)
    return figure
