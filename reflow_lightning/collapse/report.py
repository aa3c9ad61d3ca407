"""What a collapse removed, and why other things stayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from reflow_lightning.collapse.edits import Row

_KEY = "_collapse_report"
_MOST_NAMES = 3
_WIDEST = 60


@dataclass(frozen=True)
class CollapseReport:
    """What a collapse did.

    Attributes:
        removed: What was removed.
        left: What could not be, though something in it is constant or linear, and why.
        deviation: The largest difference of an output, relative to the largest of that output.
    """

    removed: tuple[Row, ...]
    left: tuple[Row, ...]
    deviation: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "removed": [row._asdict() for row in self.removed],
            "left": [row._asdict() for row in self.left],
            "deviation": self.deviation,
        }

    def __str__(self) -> str:
        return (
            f"removed:\n{_table(self.removed)}\nleft:\n{_table(self.left)}\n"
            f"largest relative difference of an output: {self.deviation:.1e}"
        )


def _table(rows: Sequence[Row]) -> str:
    """One line for all layers that have the same text."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for what, where, why in rows:
        grouped.setdefault((what, why if what != "batchnorm" else "folded into the layer before"), []).append(where)
    lines = [(what, _names(names), why) for (what, why), names in grouped.items()]
    widths = [max((len(line[i]) for line in lines), default=0) for i in (0, 1)]
    widths[1] = min(widths[1], _WIDEST)
    return "\n".join(f"  {a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in lines) or "  nothing"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _MOST_NAMES else f"{names[0]} to {names[-1]}, {len(names)} in all"


def attach(module: Any, report: CollapseReport) -> None:
    """Keep a report with a module, in plain types, so that it can be saved and loaded without this package."""
    kept = {
        "removed": [tuple(row) for row in report.removed],
        "left": [tuple(row) for row in report.left],
        "deviation": report.deviation,
    }
    if isinstance(module, fx.GraphModule):
        module.meta[_KEY] = kept  # which copies of a graph keep
    setattr(module, _KEY, kept)  # which files keep, and copies of other modules


def collapse_report(collapsed: nn.Module) -> CollapseReport:
    """The report of a module that `collapse` returned.

    Raises:
        ValueError: If the module did not come from `collapse`.

    Example:
        >>> import torch
        >>> from reflow_lightning.collapse import collapse
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> print(collapse_report(collapse(model, torch.ones(1, 2))).removed[0])
        Row(what='merge', where='0 and 1', why='one layer with 0.50 times the multiply-adds')
    """
    kept = getattr(collapsed, "meta", {}).get(_KEY, getattr(collapsed, _KEY, None))
    if kept is None:
        raise ValueError(f"{type(collapsed).__name__} carries no report: pass what collapse(...) returned")
    return CollapseReport(
        tuple(Row(*r) for r in kept["removed"]), tuple(Row(*r) for r in kept["left"]), kept["deviation"]
    )
