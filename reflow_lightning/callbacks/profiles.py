"""The signal against depth at a prune event, in the form in which each kind of logger can show it.

The depth of a layer is no step of a training. So a profile is a figure and a table, at the step of the event.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from reflow_lightning.events.record import PruneEvent
from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.signal.report import SignalReport, plot_profiles, profile_rows, rectifier_rows

FIGURE = "signal/variance"
"""What the figure of variance against depth is called."""


def log_profile(loggers: Iterable[Logger], event: PruneEvent, step: int) -> None:
    """Give loggers the signal of the network dense, pruned and repaired; nothing if it was not measured.

    TensorBoard, W&B and MLflow get the figure of variance against depth, the last two a table of all that was measured
    as well, and a logger with a folder gets the files ``signal.csv`` and ``rectifiers.csv`` in it, with a row for each
    event, state and layer.

    Args:
        loggers: Those of a trainer; rank zero alone must call this.
        event: A prune event.
        step: What the loggers count as its step.
    """
    if not event.signal:
        return
    title = f"step {event.step}, sparsity {event.sparsity:.3g}"
    tables = {"signal": profile_rows(event.signal), "rectifiers": rectifier_rows(event.signal)}
    logger: Any
    for logger in loggers:
        if is_one(logger, "TensorBoardLogger"):
            logger.experiment.add_figure(FIGURE, plot_profiles(event.signal, title), step)
        elif is_one(logger, "WandbLogger"):
            logger.log_image(FIGURE, [_image(event.signal, title)], step=step)
            for name, rows in tables.items():
                if rows:
                    logger.log_table(f"signal/{name}", list(rows[0]), [list(row.values()) for row in rows], step=step)
        elif is_one(logger, "MLFlowLogger"):
            at = f"step_{event.step:08d}"
            logger.experiment.log_figure(logger.run_id, plot_profiles(event.signal, title), f"{FIGURE}/{at}.png")
            for name, rows in tables.items():
                logger.experiment.log_text(logger.run_id, as_csv(rows), f"signal/{name}/{at}.csv")
        if (folder := getattr(logger, "log_dir", None)) is not None:
            for name, rows in tables.items():
                _append(Path(folder) / f"{name}.csv", [{"step": event.step, **row} for row in rows])


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with a line of names; nothing of no rows.

    Example:
        >>> as_csv([{"layer": "conv1", "variance": 0.5}]).splitlines()
        ['layer,variance', 'conv1,0.5']
    """
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a file, below its line of names."""
    header, _, lines = as_csv(rows).partition("\n")
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="") as file:
            file.write(lines if file.tell() else f"{header}\n{lines}")


def _image(signal: Mapping[str, SignalReport], title: str) -> Any:
    """The figure as an image of Pillow's, for a logger that takes no figure of Matplotlib's."""
    from PIL import Image

    buffer = io.BytesIO()
    plot_profiles(signal, title).savefig(buffer, dpi=120)
    buffer.seek(0)
    return Image.open(buffer)
