"""The picture of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DENSE, _LOW, _WITHIN = "#3b4a5a", "#d1495b", "#2a9d8f"


def plot_search(report: Mapping[str, Any]) -> Figure:
    """The validation metric of all trials against their sparsity, and which one was found.

    Args:
        report: That of a search: its ``search``, ``metric``, ``sparsity`` and ``title``.

    Returns:
        A figure of its own, outside pyplot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    details = report["search"]
    trials = sorted(details["trials"], key=lambda trial: trial["sparsity"])
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(details["dense"], color=_DENSE, linestyle="--", linewidth=1.5, label="dense")
    every = [(trial["sparsity"], trial["score"]) for trial in trials]
    axes.plot(*zip((0.0, details["dense"]), *every, strict=True), color="#b8c0c8", linewidth=1.2, zorder=1)
    for within, color, label in ((True, _WITHIN, "within the drop"), (False, _LOW, "too low")):
        if points := [(trial["sparsity"], trial["score"]) for trial in trials if trial["within"] is within]:
            axes.plot(*zip(*points, strict=True), "o", color=color, markersize=6, label=label)
    axes.plot(
        report["sparsity"],
        details["found"],
        marker="o",
        linestyle="none",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor=_WITHIN,
        markeredgewidth=2,
        label=f"found: {report['sparsity']:.4f}",
    )
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("sparsity")
    axes.set_ylabel(f"validation {report['metric']}")
    axes.set_title(f"{report['title']}, max_drop {details['max_drop']:g}", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    return figure
