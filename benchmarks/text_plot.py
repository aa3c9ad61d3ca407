"""Accuracy against sparsity, a panel for each network and data set; bands are a standard deviation over the seeds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from tables import Row, mean_and_spread

from reflow_lightning.signal.figures import BLACK, SERIES, draw_line, new_figure, styled

STATES = ("pruned", "moments", "reconstruct", "reselect", "best")


@styled
def plot(rows: Sequence[Row]) -> Figure:
    """Draw the table of `text`, of the masks that are ranked globally."""
    panels = list(dict.fromkeys((row["network"], row["data"]) for row in rows))
    figure = new_figure(5.4 * len(panels), 4.8)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        here = [row for row in rows if (row["network"], row["data"], row["allocation"]) == (*panel, "global")]
        x = [float(row["sparsity"]) for row in here]
        dense, _ = mean_and_spread(here[0]["dense"])
        axes.axhline(dense, color=BLACK, linewidth=1.2, linestyle="--", label="dense")
        for state, style in zip(STATES, SERIES, strict=False):
            means, spreads = zip(*(mean_and_spread(row[state]) for row in here), strict=True)
            draw_line(axes, x, means, spreads, state, **style)
        axes.set_title(f"{panel[1]}: {panel[0]}")
        axes.set_xlabel("sparsity")
        axes.set_xticks(x)
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure
