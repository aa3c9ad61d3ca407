"""SignalReport: what the layers' signals look like, as rows, text and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from reflow_lightning.running.describing import aligned
from reflow_lightning.signal.histogram import Histogram
from reflow_lightning.signal.layer_entropy import LayerEntropy
from reflow_lightning.signal.metrics import OF_RECTIFIERS

if TYPE_CHECKING:
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
        histograms: How the values of each layer are distributed, by name, if the metric ``"histogram"`` was asked for.

    Example:
        >>> report = SignalReport((LayerSignal("conv1", 8, 0.0, 1.0, 1.0, dead=0.25),), batches=1)
        >>> print(report.table())
        layer  channels      mean  variance  total_variance   dead
        conv1         8  0.00e+00  1.00e+00        1.00e+00  0.250
    """

    rows: tuple[LayerSignal, ...]
    batches: int
    rectifiers: tuple[LayerEntropy, ...] = ()
    histograms: Mapping[str, Histogram] = field(default_factory=dict, repr=False)

    def table(self) -> str:
        """The rows as text; columns that need a reference, or labels, appear if there were any."""
        return format_table(self.to_dict()["layers"])

    __str__ = table

    def to_dict(self) -> dict[str, Any]:
        """Plain types: ``{"batches": .., "layers": [{"name": .., "variance": .., ..}, ..], "rectifiers": [..]}``.

        ``"histograms"`` are there, by layer, if they were asked for.
        """
        histograms = {name: found._asdict() for name, found in self.histograms.items()}
        return {
            "batches": self.batches,
            "layers": [asdict(row) for row in self.rows],
            "rectifiers": [asdict(row) for row in self.rectifiers],
            **({"histograms": histograms} if histograms else {}),
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
        rectifiers = tuple(LayerEntropy(**row) for row in content["rectifiers"])
        histograms = {
            name: Histogram(tuple(found["edges"]), tuple(found["counts"]))
            for name, found in content.get("histograms", {}).items()
        }
        return cls(rows, content["batches"], rectifiers, histograms)

    def variances(self) -> dict[str, float]:
        """Variance by layer name, in forward order."""
        return {row.name: row.variance for row in self.rows}

    def figure(self, title: str | None = None, label: str = "this network") -> Figure:
        """Variance against depth, on a log scale.

        Args:
            title: Heading; by default what is drawn, and over how many batches.
            label: What the line is called; ``"dense"``, ``"pruned"`` and ``"repaired"`` have colours of their own.
        """
        from reflow_lightning.signal.profile_plot import plot_profiles

        many = f"{self.batches} batch{'' if self.batches == 1 else 'es'}"
        return plot_profiles({label: self}, f"signal by layer, over {many}" if title is None else title)

    def quality_figure(self, title: str | None = None, label: str = "this network") -> Figure:
        """Strength and direction against depth, beside the dense network that it was measured with as reference.

        Args:
            title: Heading.
            label: What the line is called.
        """
        from reflow_lightning.signal.quality import plot_quality

        return plot_quality({label: self}, title)


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
    return aligned(cells)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2e}" if column in ("mean", "variance", "total_variance") else f"{value:.3f}"
    return str(value)


def values_of(report: SignalReport, metric: str) -> dict[str, float]:
    """A metric of a monitor by layer, from input to output, where it was measured.

    Example:
        >>> from reflow_lightning.signal import LayerSignal
        >>> values_of(SignalReport((LayerSignal("fc", 8, 0.0, 1.0, 1.0, dead=0.25),), batches=1), "dead")
        {'fc': 0.25}
    """
    if (field := OF_RECTIFIERS.get(metric)) is not None:
        return {row.layer: getattr(row, field) for row in report.rectifiers}
    return {row.name: value for row in report.rows if (value := getattr(row, metric)) is not None}
