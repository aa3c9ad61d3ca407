"""What sparse layers bring: the time of each layer and of the whole network, dense and sparse."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from reflow_lightning.cost.latency import Latency

_KEY = "_sparse_report"
_TITLES = ("layer", "kind", "density", "dense ms", "sparse ms", "speedup", "")


@dataclass(frozen=True)
class LayerSpeed:
    """One layer, dense and sparse.

    Attributes:
        name: Name of the module.
        kind: Its type.
        density: Share of its weights that are not zero.
        dense_ms: Milliseconds of all its calls in one forward pass; ``None`` if they were not measured.
        sparse_ms: The same with a sparse weight.
        speedup: How many times as fast the sparse weight is, the median of paired runs.
        reason: Why the layer stayed dense; ``""`` if it was swapped.
    """

    name: str
    kind: str
    density: float
    dense_ms: float | None = None
    sparse_ms: float | None = None
    speedup: float | None = None
    reason: str = ""

    @property
    def swapped(self) -> bool:
        """Whether the layer is sparse now."""
        return not self.reason

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "swapped": self.swapped}


@dataclass(frozen=True)
class SparseReport:
    """What `sparse_linear` measured and did.

    Attributes:
        layers: One row for each linear layer and 1x1 convolution.
        latency: The whole network, dense before and with sparse layers after, measured side by side.
        largest_difference: Between their outputs, over the largest absolute value of the dense one's.
    """

    layers: tuple[LayerSpeed, ...]
    latency: Latency
    largest_difference: float

    @property
    def swapped(self) -> int:
        """How many layers are sparse now."""
        return sum(layer.swapped for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "swapped": self.swapped,
            "latency": self.latency.to_dict(),
            "largest_difference": self.largest_difference,
        }

    def __str__(self) -> str:
        rows = [_TITLES, *map(_row, self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row[:2], widths[:2], strict=True)), *_right(row, widths)])
            for row in rows
        ]
        return "\n".join(
            [
                *(line.rstrip() for line in lines),
                f"{self.swapped} of {len(self.layers)} layers are sparse now",
                f"latency: {self.latency}",
                f"largest difference: {self.largest_difference:.1e}",
            ]
        )


def _row(layer: LayerSpeed) -> tuple[str, ...]:
    numbers = (layer.dense_ms, layer.sparse_ms, layer.speedup)
    shown = ("" if number is None else f"{number:.3g}" for number in numbers)
    return layer.name or "the network", layer.kind, f"{layer.density:.3f}", *shown, layer.reason or "swapped"


def _right(row: tuple[str, ...], widths: list[int]) -> list[str]:
    return [*(cell.rjust(width) for cell, width in zip(row[2:-1], widths[2:-1], strict=True)), row[-1]]


def attach(model: nn.Module, report: SparseReport) -> None:
    """Keep a report with the network, also in its copies and files."""
    vars(model)[_KEY] = report


def sparse_report(model: nn.Module) -> SparseReport:
    """The report of a network that `reflow_lightning.cost.sparse_linear` returned.

    Raises:
        ValueError: If the network did not come from `sparse_linear`.

    Example:
        >>> sparse_report(nn.ReLU())
        Traceback (most recent call last):
        ValueError: ReLU carries no report: pass what sparse_linear(...) returned
    """
    report = vars(model).get(_KEY)
    if not isinstance(report, SparseReport):
        raise ValueError(f"{type(model).__name__} carries no report: pass what sparse_linear(...) returned")
    return report
