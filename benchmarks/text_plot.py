"""Accuracy against sparsity, a panel for each network and data set; bands are a standard deviation over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, pstdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import Row

COLORS = {
    "pruned": ("#8d99a6", "s"),
    "moments": ("#edae49", "^"),
    "reconstruct": ("#4f9ac4", "o"),
    "reselect": ("#2a9d8f", "D"),
    "best": ("#d1495b", "v"),
}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows of `text`, one for each seed and sparsity."""
    panels = list(dict.fromkeys((row["network"], row["data"]) for row in rows))
    figure = Figure(figsize=(4.6 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        here = [row for row in rows if (row["network"], row["data"], row["allocation"]) == (*panel, "global")]
        dense = 100 * mean(row["dense"] for row in here)
        axes.axhline(dense, color="#3b4a5a", linewidth=1, linestyle=":", label="dense")
        for state, (color, marker) in COLORS.items():
            found: dict[float, list[float]] = {}
            for row in here:
                found.setdefault(float(row["sparsity"]), []).append(100 * row[state])
            x = sorted(found)
            y, spread = [mean(found[at]) for at in x], [pstdev(found[at]) for at in x]
            axes.plot(x, y, marker=marker, markersize=5, linewidth=1.8, color=color, label=state)
            low, high = ([value + sign * s for value, s in zip(y, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_title(f"{panel[1]}: {panel[0]}", fontsize=10, loc="left")
        axes.set_xlabel("sparsity")
        axes.set_xticks(x)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("test accuracy, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=150)
