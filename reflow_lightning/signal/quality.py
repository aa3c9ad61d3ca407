"""Strong but wrong: where a signal has the dense network's strength, but another direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reflow_lightning.signal.report import COLORS, SignalReport, name_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRENGTH = 0.5
_ALIGNMENT = 0.7
_FLOOR = 1e-9
_AMBER, _BAND = "#c77700", "#fbe9c6"


def strong_but_wrong(
    report: SignalReport, *, strength: float = _STRENGTH, alignment: float = _ALIGNMENT
) -> tuple[str, ...]:
    """The layers whose signal is as strong as the dense network's, but not the same.

    BatchNorm makes the output of a layer strong whatever comes in, so that after a repair the variance alone tells
    nothing of what was lost.

    Args:
        report: Measured with a reference.
        strength: Strong is a variance ratio of ``strength`` to ``1 / strength``.
        alignment: Wrong is a linear CKA below this.

    Returns:
        Names, in forward order.

    Example:
        >>> from reflow_lightning.signal import LayerSignal
        >>> row = LayerSignal("conv1", 8, 0.0, 1.0, 1.0, dead=0.25, variance_ratio=0.98, cka=0.3)
        >>> strong_but_wrong(SignalReport((row,), batches=1))
        ('conv1',)
    """
    return tuple(
        row.name
        for row in report.rows
        if row.cka is not None
        and row.variance_ratio is not None
        and row.cka < alignment
        and strength <= row.variance_ratio <= 1 / strength
    )


def plot_quality(
    reports: Mapping[str, SignalReport],
    title: str | None = None,
    *,
    strength: float = _STRENGTH,
    alignment: float = _ALIGNMENT,
) -> Figure:
    """Draw strength and direction of the signal against depth, and mark where the last one is strong but wrong.

    Above, the variance ratio to the dense network, on a log scale; below, the linear CKA with it.

    Args:
        reports: Reports by label, measured with the same reference over the same layers; `strong_but_wrong` marks
            layers of the last.
        title: Heading.
        strength: See `strong_but_wrong`.
        alignment: See `strong_but_wrong`.

    Returns:
        A figure of its own, outside pyplot.

    Raises:
        ValueError: If there is no report, or one was measured without a reference or over other layers.

    Example:
        >>> from reflow_lightning.signal import LayerSignal
        >>> row = LayerSignal("conv1", 8, 0.0, 1.0, 1.0, dead=0.25, variance_ratio=0.98, cka=0.3)
        >>> figure = plot_quality({"repaired": SignalReport((row,), batches=1)})
        >>> [axes.get_ylabel().splitlines()[0] for axes in figure.axes]
        ['strength', 'direction']
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    names = _check(reports)
    figure = Figure(figsize=(9, 5.8), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, sharex=True)
    last = reports[list(reports)[-1]]
    wrong = set(strong_but_wrong(last, strength=strength, alignment=alignment))
    marked = [depth for depth, name in enumerate(names, start=1) if name in wrong]
    _draw(above, reports, "variance_ratio", marked)
    _draw(below, reports, "cka", marked)
    above.set_yscale("log")
    above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    above.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    above.yaxis.set_minor_formatter(NullFormatter())
    above.set_ylabel("strength\nvariance ratio to dense")
    below.set_ylim(0, 1.05)
    below.set_ylabel("direction\nlinear CKA with dense")
    name_layers(below, names)
    handles, labels = above.get_legend_handles_labels()
    if marked:
        handles.append(Patch(facecolor=_BAND, edgecolor=_AMBER))
        labels.append(f"strong but wrong: within a factor {1 / strength:g} of dense, CKA below {alignment:g}")
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    above.legend(handles, labels, ncols=len(labels), columnspacing=1.4, frameon=False, fontsize=9, **place)
    if title:
        above.set_title(title, loc="left", fontsize=11, pad=26)
    return figure


def _check(reports: Mapping[str, SignalReport]) -> list[str]:
    """The names of the layers, if the reports can be drawn together."""
    if not reports:
        raise ValueError("reports is empty: pass at least one, such as {'repaired': report}")
    names = [row.name for row in next(iter(reports.values())).rows]
    for label, report in reports.items():
        if all(row.cka is None or row.variance_ratio is None for row in report.rows):
            raise ValueError(f"reports['{label}'] was measured without the dense network: pass reference=...")
        if [row.name for row in report.rows] != names:
            raise ValueError(f"reports['{label}'] has other layers than the first: measure the same ones")
    return names


def _draw(axes: Axes, reports: Mapping[str, SignalReport], field: str, marked: Sequence[int]) -> None:
    """One panel: a line a report, bands behind the marked layers and rings around the last report's values there."""
    for depth in marked:
        axes.axvspan(depth - 0.5, depth + 0.5, color=_BAND, linewidth=0, zorder=0)
    axes.axhline(1, color=COLORS["dense"], linestyle="--", linewidth=1.2, label="dense", zorder=1)
    values: list[float] = []
    for label, report in reports.items():
        found = [getattr(row, field) for row in report.rows]  # none where rows can't be compared
        values = [math.nan if value is None else max(value, _FLOOR) for value in found]
        axes.plot(
            range(1, len(values) + 1), values, "o-", markersize=4, linewidth=2, label=label, color=COLORS.get(label)
        )
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": _AMBER, "markeredgewidth": 1.8}
    axes.plot(marked, [values[depth - 1] for depth in marked], "o", markersize=10, zorder=4, **ring)
    axes.grid(alpha=0.25, axis="y")
    axes.spines[["top", "right"]].set_visible(False)
