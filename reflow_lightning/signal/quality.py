"""Strong but wrong: where a signal has the dense network's strength, but another direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reflow_lightning.signal.figures import BLACK, ORANGE, STATES, label_ends, new_figure, styled
from reflow_lightning.signal.profile_plot import FLOOR, name_layers
from reflow_lightning.signal.report import SignalReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRENGTH = 0.5
_ALIGNMENT = 0.7
_BAND = "#fbe9c6"


def strong_but_wrong(
    report: SignalReport, *, strength: float = _STRENGTH, alignment: float = _ALIGNMENT
) -> tuple[str, ...]:
    """The layers whose signal is as strong as the dense network's, but not the same.

    BatchNorm makes the output of a layer strong for any input, so that after a repair the variance alone tells nothing
    of what was lost.

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


@styled
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
    from matplotlib.patches import Patch
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    names = _check(reports)
    figure = new_figure(6.8, 6.2)
    above, below = figure.subplots(2, sharex=True)
    last = reports[list(reports)[-1]]
    wrong = set(strong_but_wrong(last, strength=strength, alignment=alignment))
    marked = [depth for depth, name in enumerate(names, start=1) if name in wrong]
    _draw(above, reports, "variance_ratio", marked)
    _draw(below, reports, "cka", marked)
    above.set_yscale("log")
    low, high = above.get_ylim()
    above.set_ylim(min(low, strength), max(high, 1 / strength))
    above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    above.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    above.yaxis.set_minor_formatter(NullFormatter())
    above.set_ylabel("strength\nvariance ratio to dense")
    below.set_ylim(0, 1.05)
    below.set_ylabel("direction\nlinear CKA with dense")
    name_layers(below, names)
    label_ends(above)
    label_ends(below)
    if marked:
        text = f"strong but wrong: within a factor {1 / strength:g} of dense, CKA below {alignment:g}"
        figure.legend([Patch(facecolor=_BAND, edgecolor=ORANGE)], [text], loc="outside lower center")
    if title:
        above.set_title(title)
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
    axes.axhline(1, color=BLACK, linestyle="--", linewidth=1.2, label="dense", zorder=1)
    values: list[float] = []
    for label, report in reports.items():
        found = [getattr(row, field) for row in report.rows]  # none where rows can't be compared
        values = [math.nan if value is None else max(value, FLOOR) for value in found]
        axes.plot(range(1, len(values) + 1), values, label=label, **STATES.get(label, {"marker": "o"}))
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": ORANGE, "markeredgewidth": 1.8}
    axes.plot(marked, [values[depth - 1] for depth in marked], "o", markersize=11, zorder=4, **ring)
    axes.grid(axis="x", visible=False)
