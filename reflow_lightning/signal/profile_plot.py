"""The picture of a network's signal against the depth of its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reflow_lightning.signal.figures import STATES, label_ends, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reflow_lightning.signal.report import SignalReport

FLOOR = 1e-9
"""Lower variances are drawn here: a logarithmic axis has no zero."""

_MOST = 20  # so many names stand side by side and can be read


def short_names(names: Sequence[str]) -> list[str]:
    """Names of layers without the name of the module that all of them are in, such as a LightningModule's ``net``.

    Example:
        >>> short_names(["net.conv1", "net.layer1.0.bn1"])
        ['conv1', 'layer1.0.bn1']
    """
    root = f"{names[0].partition('.')[0]}." if names else ""
    return [name.removeprefix(root) for name in names] if all(name.startswith(root) for name in names) else list(names)


def name_layers(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of the layers along the x-axis, as many as are readable."""
    step = -(-len(names) // _MOST)
    axes.set_xticks(range(1, len(names) + 1)[::step], short_names(names)[::step], rotation=60, ha="right", fontsize=9)
    axes.set_xlabel("layer, from input to output")


@styled
def plot_profiles(profiles: Mapping[str, SignalReport], title: str | None = None) -> Figure:
    """Draw the variance of several measurements of a network against the depth of its layers.

    Args:
        profiles: Reports by label, over the same layers.
        title: Heading.

    Returns:
        A figure of its own, outside pyplot; variances below 1e-9 are drawn there.

    Raises:
        ValueError: If there is no report, or no layer in it.

    Example:
        >>> from reflow_lightning.signal import LayerSignal, SignalReport
        >>> report = SignalReport((LayerSignal("conv1", 8, 0.0, 1.0, 1.0, dead=0.25),), batches=1)
        >>> plot_profiles({"dense": report}).axes[0].get_yscale()
        'log'
    """
    if not any(report.rows for report in profiles.values()):
        raise ValueError("profiles have no layer: pass reports by label, such as the signal of a prune event")
    figure = new_figure(6.0, 4.2)
    axes = figure.add_subplot()
    for label, report in profiles.items():
        depth = range(1, len(report.rows) + 1)
        variance = [max(row.variance, FLOOR) if math.isfinite(row.variance) else math.nan for row in report.rows]
        axes.plot(depth, variance, label=label, **STATES.get(label, {"marker": "o"}))
    name_layers(axes, [row.name for row in next(iter(profiles.values())).rows])
    axes.set_yscale("log")
    if not any(math.isfinite(row.variance) for report in profiles.values() for row in report.rows):
        axes.set_ylim(FLOOR, 1)
    axes.set_ylabel("activation variance, log scale")
    label_ends(axes)
    if title:
        axes.set_title(title)
    return figure
