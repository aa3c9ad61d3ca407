"""Accuracy against sparsity: a panel for each repair, a line for each way to choose the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import Row

COLORS = ("#3b4a5a", "#b8bec6", "#d1495b", "#edae49", "#8d6a9f", "#4f9ac4", "#2a9d8f")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the table of `selection_or_signal`."""
    repairs = [column for column in rows[0] if column not in ("criterion", "sparsity")]
    criteria = list(dict.fromkeys(row["criterion"] for row in rows))
    figure = Figure(figsize=(2.6 * len(repairs), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(repairs), sharey=True)
    for axes, repair in zip(panels, repairs, strict=True):
        for criterion, color in zip(criteria, COLORS, strict=True):
            points = [(float(row["sparsity"]), 100 * row[repair]) for row in rows if row["criterion"] == criterion]
            axes.plot(
                *zip(*points, strict=True), marker="o", markersize=3.5, linewidth=1.8, color=color, label=criterion
            )
        axes.set_title(f"repair: {repair}", fontsize=10, loc="left")
        axes.set_xlabel("sparsity")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("top-1 accuracy, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(criteria), frameon=False
    )
    figure.savefig(path, dpi=150)
