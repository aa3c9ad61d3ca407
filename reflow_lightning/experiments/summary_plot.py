"""The picture of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from reflow_lightning.experiments.grouping import RESULTS, STATES, Row, over_seeds
from reflow_lightning.signal.figures import SERIES, draw_line, label_ends, new_figure, styled
from reflow_lightning.signal.figures import STATES as STATE_STYLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REPAIRS = [style for style in SERIES if style["color"] not in {STATE_STYLES[s]["color"] for s in ("dense", "pruned")}]
"""How lines after several repairs are drawn."""
_LONGEST = 36  # a name that stands beside a line


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


@styled
def plot(rows: Sequence[Row]) -> Figure:
    """Metric against sparsity, a panel for each combination of the other overrides; or a row of points for each job.

    Jobs that differ in their seed alone are one point, with a band of one standard deviation to each side. Where all
    combinations prune the same networks to the same, as where only the repair differs, they share one panel.

    Args:
        rows: Of `collect`, those that are done. If no two of them differ in their sparsity alone, there are no lines
            to draw.

    Returns:
        A figure of its own, outside pyplot.
    """
    rows = over_seeds(rows)
    others = varied(rows)
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(describe(row, others), []).append(row)
    if len(panels) == len(rows):
        return _plot_jobs(rows)
    return _plot_repairs(rows, panels) if _differ_after_pruning(panels) else _plot_lines(rows, panels)


def _plot_lines(rows: Sequence[Row], panels: Mapping[str, Sequence[Row]]) -> Figure:
    columns = min(len(panels), max(2, math.ceil(math.sqrt(len(panels)))))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(*((6.8, 4.4) if len(panels) == 1 else (3.8 * columns, 0.6 + 2.8 * lines)))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, group) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(name.replace(", ", "\n"), fontsize=11)
        for state in STATES:
            _draw_state(axes, group, state, state, **STATE_STYLES[state])
    for place in range(len(panels), grid.size):
        grid.flat[place].set_visible(False)
        grid.flat[place - columns].tick_params(labelbottom=True)
    _mark_sparsities(grid[0, 0], rows)
    if len(panels) == 1:
        label_ends(grid[0, 0])
    else:
        _name_states(figure)
    figure.supxlabel(f"sparsity{_seeds_of(rows)}", fontsize=12)
    figure.supylabel(_metric(rows), fontsize=12)
    return figure


def _differ_after_pruning(panels: Mapping[str, Sequence[Row]]) -> bool:
    """Whether some panels, few enough for one, show the same dense and pruned networks, none of them trained on."""
    groups = list(panels.values())
    if not 1 < len(panels) <= len(_REPAIRS) or max(map(len, panels)) > _LONGEST:
        return False
    if any("final" in row or not {"pruned", "repaired"} <= row.keys() for group in groups for row in group):
        return False
    keys = ("sparsity", "dense", "dense_std", "pruned", "pruned_std")
    before = [sorted([round(row.get(key, 0.0), 4) for key in keys] for row in group) for group in groups]
    return all(each == before[0] for each in before)


def _plot_repairs(rows: Sequence[Row], panels: Mapping[str, Sequence[Row]]) -> Figure:
    figure = new_figure(6.8, 4.4)
    axes = figure.add_subplot()
    for state in ("dense", "pruned"):
        _draw_state(axes, next(iter(panels.values())), state, state, **STATE_STYLES[state])
    for (name, group), style in zip(panels.items(), _REPAIRS, strict=False):
        _draw_state(axes, group, "repaired", name, **style)
    _mark_sparsities(axes, rows)
    label_ends(axes)
    axes.set_xlabel(f"sparsity{_seeds_of(rows)}")
    axes.set_ylabel(_metric(rows))
    return figure


def _draw_state(axes: Axes, group: Sequence[Row], state: str, label: str, **style: Any) -> None:
    """Draw a state of some jobs against their sparsity."""
    points = sorted((row["sparsity"], row[state], row.get(f"{state}_std", 0.0)) for row in group if state in row)
    if points:
        sparsities, means, spreads = zip(*points, strict=True)
        draw_line(axes, sparsities, means, spreads, label, **style)


def _mark_sparsities(axes: Axes, rows: Sequence[Row]) -> None:
    """Put the ticks where the jobs are."""
    if ticks := ticks_at([row["sparsity"] for row in rows]):
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter("{x:g}")


def _seeds_of(rows: Sequence[Row]) -> str:
    """What a mean is of, if all points are means of as many seeds."""
    seeds = {int(row.get("seeds", 1)) for row in rows}
    return f", mean and standard deviation of {max(seeds)} seeds" if seeds == {max(seeds)} != {1} else ""


def ticks_at(sparsities: Sequence[float]) -> list[float]:
    """The sparsities of a sweep as ticks; none if they are many, or so close that their labels would touch.

    Example:
        >>> ticks_at([0.9001, 0.5, 0.9, 0.95]), ticks_at([0.5, 0.98, 0.99])
        ([0.5, 0.9, 0.95], [])
    """
    found = sorted({round(sparsity, 3) for sparsity in sparsities})
    gaps = [after - before for before, after in pairwise(found)]
    return found if 1 < len(found) <= 8 and min(gaps) > 0.08 * (found[-1] - found[0]) else []


def _plot_jobs(rows: Sequence[Row]) -> Figure:
    figure = new_figure(9, 1.6 + 0.34 * len(rows))
    axes = figure.add_subplot()
    for state in STATES:
        points = [(row[state], place, row.get(f"{state}_std", 0.0)) for place, row in enumerate(rows) if state in row]
        if points:
            x, y, spread = zip(*points, strict=True)
            axes.plot(x, y, label=state, **STATE_STYLES[state] | {"linestyle": "none"})
            if any(spread):
                axes.errorbar(x, y, xerr=spread, fmt="none", ecolor=STATE_STYLES[state]["color"], capsize=4)
    names = [f"{row['job']}: {describe(row, ['sparsity', *varied(rows)])}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=10)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)  # the first job on top
    axes.set_xlabel(_metric(rows))
    _name_states(figure)
    return figure


def _name_states(figure: Figure) -> None:
    """One legend for all panels."""
    drawn = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    if ordered := [drawn[state] for state in STATES if state in drawn]:
        figure.legend(handles=ordered, ncols=len(ordered), loc="outside upper center")


def _metric(rows: Sequence[Row]) -> str:
    return next((str(row["metric"]) for row in rows if "metric" in row), "metric")
