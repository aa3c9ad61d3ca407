"""The picture of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reflow_lightning.signal.figures import BLACK, BLUE, GREY, VERMILION, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_search(report: Mapping[str, Any]) -> Figure:
    """The validation metric of all trials against their sparsity, how far it may drop, and which one was found.

    Args:
        report: That of a search: its ``search``, ``metric``, ``sparsity`` and ``title``.

    Returns:
        A figure of its own, outside pyplot.
    """
    details = report["search"]
    trials = sorted(details["trials"], key=lambda trial: trial["sparsity"])
    figure = new_figure(6.8, 4.6)
    axes = figure.add_subplot()
    every = [(0.0, details["dense"]), *((trial["sparsity"], trial["score"]) for trial in trials)]
    axes.plot(*zip(*every, strict=True), color=GREY, linewidth=1.2, zorder=1)
    for within, color, mark, label in ((True, BLUE, "o", "within the drop"), (False, VERMILION, "X", "too low")):
        if points := [(trial["sparsity"], trial["score"]) for trial in trials if trial["within"] is within]:
            axes.plot(*zip(*points, strict=True), mark, color=color, markersize=7, label=label)
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": BLUE, "markeredgewidth": 2}
    label = f"found: {report['sparsity']:.4f}"
    axes.plot(report["sparsity"], details["found"], "o", markersize=15, label=label, **ring)
    axes.set_xlim(-0.02, 1.02)
    for height, name, line in (
        (details["dense"], f"dense: {details['dense']:.4f}", "--"),
        (details["threshold"], f"limit of the drop: {details['threshold']:.4f}", ":"),
    ):
        axes.axhline(height, color=BLACK, linestyle=line, linewidth=1.5, label=name, zorder=1)
    axes.set_xlabel("sparsity")
    axes.set_ylabel(f"validation {report['metric']}")
    axes.set_title(f"{report['title']}, max_drop {details['max_drop']:g}")
    axes.legend(loc="lower left")
    return figure
