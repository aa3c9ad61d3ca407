"""How much faster a collapsed network is, against the share of multiply-adds that went."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from tables import Row

from reflow_lightning.signal.figures import GREY, SERIES, new_figure, styled

FILLED = {"digits": "none", "cifar10": "full"}


@styled
def plot(rows: Sequence[Row]) -> Figure:
    """Draw the speed of `collapse` against the network that only had its BatchNorm folded, for each batch size."""
    figure = new_figure(10, 4.6)
    panels = figure.subplots(1, 2, sharey=True)
    networks = list(dict.fromkeys(row["network"] for row in rows))
    styles = dict(zip(networks, SERIES, strict=False))
    for axes, size in zip(panels, (1, 128), strict=True):
        shares = [i / 100 for i in range(81)]
        axes.plot([100 * x for x in shares], [1 / (1 - x) for x in shares], color=GREY, label="as fast as it is small")
        axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
        for row in rows:
            if row["known from"] == "weights":
                speed = float(row[f"batch {size}, folded"].split()[0])
                how = {**styles[row["network"]], "fillstyle": FILLED[row["data"]], "markersize": 8, "linestyle": "none"}
                axes.plot(100 * row["multiply-adds"], speed, label=f"{row['network']}, {row['data']}", **how)
        axes.set_title(f"batch of {size}")
        axes.set_xlabel("multiply-adds removed, %")
        axes.set_ylim(0.8, 2.8)
    panels[0].set_ylabel("times as fast")
    handles = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    return figure
