"""The signal against depth at a prune event, in the form in which each kind of logger can show it.

The depth of a layer is no step of a training. So a profile is a picture and a table, at the step of the event.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from reflow_lightning.callbacks.curves import FEW, with_curves
from reflow_lightning.callbacks.pictures import log_picture
from reflow_lightning.callbacks.state_runs import log_states
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.signal.histogram import plot_histograms
from reflow_lightning.signal.profile_plot import plot_profiles
from reflow_lightning.signal.report import profile_rows, rectifier_rows

PROFILE, VALUES = "activations/by_layer", "activations/values"
"""What the pictures of an event are called. TensorBoard sorts by name: so they come before all curves."""


def log_profile(
    loggers: Iterable[Logger],
    event: PruneEvent,
    step: int,
    curves: int | tuple[str, ...] = FEW,
    with_pictures: bool = True,
) -> None:
    """Give loggers the signal of the network dense, pruned and repaired; nothing if it was not measured.

    TensorBoard, W&B and MLflow get the pictures of variance against depth and of the activations of some layers. The
    last two get a table of all that was measured as well, and a logger with a folder gets the files ``signal.csv``,
    ``rectifiers.csv`` and ``sparsity.csv`` in it, with a row for each event, state and layer. In TensorBoard the three
    states have runs of their own: see `log_states`.

    Args:
        loggers: Those of a trainer; rank zero alone must call this.
        event: A prune event.
        step: What the loggers count as its step.
        curves: Which layers' activations are shown: see `with_curves`.
        with_pictures: Draw the pictures.
    """
    signal = event.signal
    if not signal:
        return
    loggers = list(loggers)
    title = f"step {event.step}, sparsity {event.sparsity:.3g}"
    showing = loggers if with_pictures else []
    log_picture(showing, PROFILE, lambda: plot_profiles(signal, title), step, event.step)
    known = [row.name for row in next(iter(signal.values())).rows]
    shown = with_curves([name for name in known if all(name in found.histograms for found in signal.values())], curves)
    if shown:
        log_picture(
            showing, VALUES, lambda: plot_histograms(signal, shown[:: -(-len(shown) // FEW)], title), step, event.step
        )
    log_states(loggers, signal, shown, step)
    tables = {
        "signal": profile_rows(signal),
        "rectifiers": rectifier_rows(signal),
        "sparsity": [{"name": name, "sparsity": share} for name, share in event.sparsities.items()],
    }
    for logger in loggers:
        _log_tables(logger, tables, event.step, step)


def _log_tables(logger: Any, tables: Mapping[str, Sequence[Mapping[str, Any]]], event_step: int, step: int) -> None:
    """Give a logger tables by name, and add them to the files in its folder."""
    for name, rows in tables.items():
        if rows and is_one(logger, "WandbLogger"):
            logger.log_table(f"signal/{name}", list(rows[0]), [list(row.values()) for row in rows], step=step)
        elif is_one(logger, "MLFlowLogger"):
            logger.experiment.log_text(logger.run_id, as_csv(rows), f"signal/{name}/step_{event_step:08d}.csv")
        if (folder := getattr(logger, "log_dir", None)) is not None:
            _append(Path(folder) / f"{name}.csv", [{"step": event_step, **row} for row in rows])


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
