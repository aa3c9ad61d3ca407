"""How much faster a collapsed network is, against the share of multiply-adds that went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import Row

COLORS = ("#3b4a5a", "#d1495b", "#edae49", "#8d6a9f", "#4f9ac4", "#2a9d8f")
MARKERS = {"digits": "o", "cifar10": "s"}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the speed of `collapse` against the network that only had its BatchNorm folded, for each batch size."""
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    networks = list(dict.fromkeys(row["network"] for row in rows))
    colors = dict(zip(networks, COLORS, strict=True))
    for axes, size in zip(panels, (1, 128), strict=True):
        shares = [i / 100 for i in range(81)]
        axes.plot(
            [100 * x for x in shares], [1 / (1 - x) for x in shares], color="#b8bec6", label="as fast as it is small"
        )
        axes.axhline(1, color="#b8bec6", linewidth=0.8, linestyle=":")
        for row in rows:
            if row["known from"] != "weights":
                continue
            axes.plot(
                100 * row["multiply-adds"],
                float(row[f"batch {size}, folded"].split()[0]),
                MARKERS[row["data"]],
                color=colors[row["network"]],
                label=f"{row['network']}, {row['data']}",
            )
        axes.set_title(f"batch of {size}", fontsize=10, loc="left")
        axes.set_xlabel("multiply-adds removed, %")
        axes.set_ylim(0.8, 2.8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("times as fast")
    handles = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
