"""The one style of all figures: colours that colour-blind people tell apart, marks, and text that half a page can show.

Every figure is drawn within `styled`, on a `new_figure`; Matplotlib is loaded there and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, GREY = "#222222", "#8a8f94"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
"""Colours of Okabe and Ito (2008), "Color universal design"."""

SERIES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o"},
    {"color": VERMILION, "marker": "s"},
    {"color": GREEN, "marker": "^"},
    {"color": PURPLE, "marker": "D"},
    {"color": ORANGE, "marker": "v"},
    {"color": SKY, "marker": "P"},
    {"color": BLACK, "marker": "X"},
    {"color": GREY, "marker": "<"},
)
"""How lines are told apart that have no meaning of their own: each by its colour and by its mark."""

_DENSE: dict[str, Any] = {
    "color": BLACK,
    "marker": "D",
    "markersize": 4,
    "linestyle": "--",
    "zorder": 3,
}  # seen where lines coincide
STATES: dict[str, dict[str, Any]] = {
    "dense": _DENSE,
    "before": _DENSE,
    "pruned": {"color": VERMILION, "marker": "o"},
    "repaired": {"color": BLUE, "marker": "s", "markersize": 7.5, "linewidth": 3},
    "final": {"color": PURPLE, "marker": "^"},
}
"""How the states of a network are drawn, in every figure."""

_STYLE: dict[Any, Any] = {
    "font.size": 12.0,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 12.0,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "figure.dpi": 130.0,
    "savefig.dpi": 130.0,
}

Parameters = ParamSpec("Parameters")


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Make a function draw in this style instead of the user's own settings, which stay as they are.

    Example:
        >>> @styled
        ... def draw() -> "Figure":
        ...     figure = new_figure(4, 3)
        ...     _ = figure.add_subplot().set_title("all layers")
        ...     return figure
        >>> draw().axes[0].get_title(loc="left")
        'all layers'
    """

    @wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of its own, outside pyplot, that nobody has to close.

    Args:
        width: In inches; half a page shows seven of them well.
        height: In inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_line(
    axes: Axes, places: Sequence[float], means: Sequence[float], spreads: Sequence[float], label: str, **style: Any
) -> None:
    """Draw a line through means, with a band of their spreads; a place alone gets a bar. `SERIES` has styles."""
    axes.plot(places, means, label=label, **style)
    if any(spreads) and len(places) > 1:
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)
    elif any(spreads):
        axes.errorbar(places, means, spreads, fmt="none", ecolor=style["color"], capsize=4)


def label_ends(axes: Axes) -> None:
    """Write the name of each line at its right end in the line's colour, in the place of a legend.

    Call it when everything is drawn and the limits of the axes are set. Names that would cover each other are shifted
    apart.

    Args:
        axes: The axes, whose lines have labels.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = {}
    for line in axes.lines:
        xy: Any = line.get_xydata()
        drawn = [point for point in xy if all(value == value for value in point)]  # where values are missing is no line
        if not str(line.get_label()).startswith("_") and drawn:
            ends[line] = float(to_axes.transform(drawn[-1])[1])
    figure: Any = axes.get_figure()
    apart = 14 / 72 / (figure.get_size_inches()[1] * axes.get_position().height)
    ordered = sorted(ends, key=lambda line: ends[line])
    for line, place in zip(ordered, _apart([ends[line] for line in ordered], apart), strict=True):
        axes.annotate(
            str(line.get_label()),
            (1, place),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            annotation_clip=False,
        )


def _apart(places: Sequence[float], distance: float) -> list[float]:
    """Move ascending places as little as is needed for a distance between neighbours, from 0 to 1 if they fit.

    Example:
        >>> _apart([0.5, 0.5, 0.9], 0.1)
        [0.45, 0.55, 0.9]
    """
    groups: list[tuple[float, int]] = []  # centre and size of what stands together
    for place in places:
        groups.append((place, 1))
        while True:
            centre, size = groups[-1]
            half = distance * (size - 1) / 2
            groups[-1] = (max(half, min(centre, 1 - half)), size)
            if len(groups) == 1:
                break
            (low, before), (high, after) = groups[-2:]
            if high - low >= distance * (before + after) / 2 - 1e-9:
                break
            groups[-2:] = [((low * before + high * after) / (before + after), before + after)]
    return [round(centre + distance * (i - (size - 1) / 2), 6) for centre, size in groups for i in range(size)]
