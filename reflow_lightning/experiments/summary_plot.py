"""The picture of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reflow_lightning.experiments.grouping import RESULTS, STATES, Row, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES: dict[str, dict[str, Any]] = {  # ever smaller, so that all are seen where they coincide
    "dense": {"color": "#3b4a5a", "marker": "D", "markersize": 7, "linewidth": 1.5, "linestyle": "--"},
    "pruned": {"color": "#d1495b", "marker": "o", "markersize": 7, "linewidth": 3.5},
    "repaired": {"color": "#2a9d8f", "marker": "s", "markersize": 5, "linewidth": 1.8},
    "final": {"color": "#e9a23b", "marker": "^", "markersize": 4, "linewidth": 1.2},
}


def varied(rows: Sequence[Row]) -> list[str]:
    """The overrides, beside the sparsity, in which jobs differ."""
    keys = {
        key: None
        for row in rows
        for key in row
        if key not in ("job", "status", "sparsity", "seeds", *RESULTS) and not key.endswith("_std")
    }
    return [key for key in keys if len({str(row.get(key)) for row in rows}) > 1]


def describe(row: Row, keys: Sequence[str]) -> str:
    """Some overrides of a job, numbers with three digits.

    Example:
        >>> describe({"sparsity": 0.90001, "model": "resnet20"}, ["sparsity", "model"])
        'sparsity=0.9, model=resnet20'
    """
    return ", ".join(f"{key}={short(row[key])}" for key in keys if key in row)


def short(value: Any) -> str:
    """A value as text, a number with three digits."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return str(value)


def plot(rows: Sequence[Row]) -> Figure:
    """Metric against sparsity, a panel for each combination of the other overrides; or a row of points for each job.

    Jobs that differ in their seed alone are one point, with a bar of one standard deviation to each side.

    Args:
        rows: Of `collect`, those that are done. If no two of them differ in their sparsity alone, there are no lines
            to draw.

    Returns:
        A figure of its own, outside pyplot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    rows = over_seeds(rows)
    others = varied(rows)
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(describe(row, others), []).append(row)
    if len(panels) == len(rows):
        _plot_jobs(figure, rows)
    else:
        _plot_lines(figure, rows, panels)
    entries = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    ordered = [entries[state] for state in STATES if state in entries]
    if ordered:
        figure.legend(handles=ordered, frameon=False, ncols=len(ordered), loc="outside upper center")
    return figure


def _plot_lines(figure: Figure, rows: Sequence[Row], panels: Mapping[str, Sequence[Row]]) -> None:
    columns = min(len(panels), max(2, math.ceil(math.sqrt(len(panels)))))
    lines = math.ceil(len(panels) / columns)
    figure.set_size_inches((7, 4.4) if len(panels) == 1 else (3.8 * columns, 0.6 + 2.8 * lines))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, group) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(name.replace(", ", "\n"), fontsize=9)
        for state in STATES:
            points = sorted(
                (row["sparsity"], row[state], row.get(f"{state}_std", 0.0)) for row in group if state in row
            )
            if points:
                x, y, spread = zip(*points, strict=True)
                axes.plot(x, y, label=state, **_STYLES[state])
                if any(spread):
                    axes.errorbar(x, y, spread, fmt="none", ecolor=_STYLES[state]["color"], capsize=3, elinewidth=1.2)
        _tidy(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("sparsity", fontsize=10)
    figure.supylabel(_metric(rows), fontsize=10)


def _plot_jobs(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_size_inches(9, 1.5 + 0.3 * len(rows))
    axes = figure.add_subplot()
    for state in STATES:
        points = [(row[state], place, row.get(f"{state}_std", 0.0)) for place, row in enumerate(rows) if state in row]
        if points:
            x, y, spread = zip(*points, strict=True)
            axes.plot(x, y, label=state, **_STYLES[state] | {"linestyle": "none"})
            if any(spread):
                axes.errorbar(x, y, xerr=spread, fmt="none", ecolor=_STYLES[state]["color"], capsize=3, elinewidth=1.2)
    names = [f"{row['job']}: {describe(row, ['sparsity', *varied(rows)])}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)  # the first job on top
    axes.set_xlabel(_metric(rows))
    _tidy(axes)


def _metric(rows: Sequence[Row]) -> str:
    return next((str(row["metric"]) for row in rows if "metric" in row), "metric")


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
