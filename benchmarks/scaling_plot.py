"""Seconds against the size of what is worked on, with the slope of each line on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from tables import Row

from reflow_lightning.signal.figures import SERIES, new_figure, styled


@styled
def plot(rows: Sequence[Row]) -> Figure:
    """Draw the table of `speed_scaling`, a panel for each kind of size; sizes are spaced evenly on their axis."""
    units = list(dict.fromkeys(row["of"] for row in rows))
    figure = new_figure(11, 4.2)
    panels = dict(zip(units, figure.subplots(1, len(units)), strict=True))
    for row, style in zip(rows, SERIES, strict=False):
        times = [float(text) for text in row["seconds"].split()]
        factor = (row["to"] / row["from"]) ** (1 / (len(times) - 1))
        sizes = [row["from"] * factor**place for place in range(len(times))]
        axes = panels[row["of"]]
        axes.loglog(sizes, times, **style)
        above = row["what"] != "prune"  # which runs below another line
        axes.annotate(
            f"{row['what']}\nslope {row['slope']}",
            (sizes[len(times) // 2], times[len(times) // 2]),
            (-8 if above else 8, 8 if above else -32),
            textcoords="offset points",
            color=style["color"],
            ha="right" if above else "left",
        )
        axes.set(xlabel=row["of"], ylabel="seconds")
        if row["to"] < 1000:
            axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
            axes.minorticks_off()
        axes.margins(x=0.15, y=0.3)
    figure.suptitle("Time grows no faster than weights, layers and batches (slope 1: in proportion), one thread")
    return figure
