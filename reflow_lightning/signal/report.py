"""SignalReport: what the layers' signals look like, as rows, text and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from reflow_lightning.signal.layer_entropy import LayerEntropy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerSignal:
    """The signal at the output of one layer, over all samples and positions.

    Attributes:
        name: Module name.
        channels: Number of channels.
        mean: Mean over everything.
        variance: Mean over channels of each channel's variance: what the signal tells apart.
        total_variance: Variance over everything, which adds the spread of the channels' means.
        dead: Share of channels that are constant.
        saturated: Share of channels of one sign, so that a rectifier after them is always on or always off.
        entropy: Mean over channels of the entropy in bits of being positive or negative (arXiv 2404.16890).
        class_share: Share of the variance between samples, pooled over positions, that is between their classes.
        variance_ratio: ``total_variance`` over the one of the reference (signal variance ratio, arXiv 2502.15790).
        channel_ratio: Geometric mean over the reference's live channels of the ratio of variances, each at least 1e-12.
        cosine: Cosine between the centred activations, pooled over positions, and the reference's.
        cka: Linear CKA between the same two, which ignores how the channels are turned and scaled (arXiv 1905.00414).
    """

    name: str
    channels: int
    mean: float
    variance: float
    total_variance: float
    dead: float
    saturated: float | None = None
    entropy: float | None = None
    class_share: float | None = None
    variance_ratio: float | None = None
    channel_ratio: float | None = None
    cosine: float | None = None
    cka: float | None = None


@dataclass(frozen=True)
class SignalReport:
    """The signal of a network, layer by layer.

    Attributes:
        rows: One row a layer, in the order in which the forward pass reaches them.
        batches: Number of batches measured.
        rectifiers: How often the rectifier after each weighted layer switches, in the order in which they ran.

    Example:
        >>> report = SignalReport((LayerSignal("conv1", 8, 0.0, 1.0, 1.0, dead=0.25),), batches=1)
        >>> print(report.table())
        layer  channels      mean  variance  total_variance   dead
        conv1         8  0.00e+00  1.00e+00        1.00e+00  0.250
    """

    rows: tuple[LayerSignal, ...]
    batches: int
    rectifiers: tuple[LayerEntropy, ...] = ()

    def table(self) -> str:
        """The rows as text; columns that need a reference, or labels, appear if there were any."""
        return format_table(self.to_dict()["layers"])

    __str__ = table

    def to_dict(self) -> dict[str, Any]:
        """Plain types: ``{"batches": .., "layers": [{"name": .., "variance": .., ..}, ..], "rectifiers": [..]}``."""
        return {
            "batches": self.batches,
            "layers": [asdict(row) for row in self.rows],
            "rectifiers": [asdict(row) for row in self.rectifiers],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SignalReport:
        """The report that `to_dict` gave.

        Example:
            >>> report = SignalReport((LayerSignal("conv1", 8, 0.0, 1.0, 1.0, dead=0.25),), batches=1)
            >>> SignalReport.from_dict(report.to_dict()) == report
            True
        """
        rows = tuple(LayerSignal(**row) for row in content["layers"])
        return cls(rows, content["batches"], tuple(LayerEntropy(**row) for row in content["rectifiers"]))

    def variances(self) -> dict[str, float]:
        """Variance by layer name, in forward order."""
        return {row.name: row.variance for row in self.rows}

    def figure(self, title: str | None = None) -> Figure:
        """Variance against depth, on a log scale."""
        return plot_profiles({"signal": self}, title)

    def quality_figure(self, title: str | None = None) -> Figure:
        """Strength and direction against depth, beside the dense network that it was measured with as reference."""
        from reflow_lightning.signal.quality import plot_quality

        return plot_quality({"signal": self}, title)


def profile_rows(signal: Mapping[str, SignalReport]) -> list[dict[str, Any]]:
    """One row for each state and layer, in plain types, with the layer's number.

    Args:
        signal: Reports by state of the network.

    Example:
        >>> report = SignalReport((LayerSignal("conv1", 8, 0.0, 1.0, 1.0, dead=0.25),), batches=1)
        >>> row = profile_rows({"dense": report})[0]
        >>> row["stage"], row["depth"], row["name"], row["variance"]
        ('dense', 1, 'conv1', 1.0)
    """
    return [
        {"stage": stage, "depth": depth, **asdict(row)}
        for stage, report in signal.items()
        for depth, row in enumerate(report.rows, start=1)
    ]


def rectifier_rows(signal: Mapping[str, SignalReport]) -> list[dict[str, Any]]:
    """One row for each state and rectifier, in plain types, with the rectifier's number."""
    return [
        {"stage": stage, "depth": depth, **asdict(row)}
        for stage, report in signal.items()
        for depth, row in enumerate(report.rectifiers, start=1)
    ]


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text, first the layer's name, without the columns that are empty throughout."""
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    cells = [["layer", *columns[1:]], *([_cell(column, row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    )


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2e}" if column in ("mean", "variance", "total_variance") else f"{value:.3f}"
    return str(value)


COLORS = {"dense": "#3b4a5a", "before": "#3b4a5a", "pruned": "#d1495b", "repaired": "#2a9d8f"}
_FLOOR = 1e-9


def name_layers(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of the layers along the x-axis, as many as are readable."""
    root = f"{names[0].partition('.')[0]}."  # such as the LightningModule's "net."
    if all(name.startswith(root) for name in names):
        names = [name.removeprefix(root) for name in names]
    step = max(1, len(names) // 24)
    axes.set_xticks(range(1, len(names) + 1)[::step], names[::step], rotation=60, ha="right", fontsize=7)
    axes.set_xlabel("layer, in forward order")


def plot_profiles(profiles: Mapping[str, SignalReport], title: str | None = None) -> Figure:
    """Draw the variance of several measurements of a network against the depth of its layers.

    Args:
        profiles: Reports by label, over the same layers.
        title: Heading.

    Returns:
        A figure of its own, outside pyplot; variances below 1e-9 are drawn there.

    Example:
        >>> report = SignalReport((LayerSignal("conv1", 8, 0.0, 1.0, 1.0, dead=0.25),), batches=1)
        >>> plot_profiles({"dense": report}).axes[0].get_yscale()
        'log'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, report in profiles.items():
        depth = range(1, len(report.rows) + 1)
        variance = [max(row.variance, _FLOOR) for row in report.rows]
        style: dict[str, Any] = (
            {"linestyle": "--", "zorder": 3} if label in ("dense", "before") else {}
        )  # seen where lines coincide
        axes.plot(depth, variance, marker="o", markersize=4, linewidth=2, label=label, color=COLORS.get(label), **style)
    name_layers(axes, [row.name for row in next(iter(profiles.values())).rows])
    axes.set_yscale("log")
    axes.set_ylabel("activation variance")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(profiles) > 1:
        axes.legend(frameon=False)
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    return figure
