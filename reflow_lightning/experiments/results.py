"""What a run leaves behind: report.json, signal.csv, variance_profile.png, and a table for the eye."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reflow_lightning.signal import SignalReport, plot_profiles

_SECONDS = {"dense": "train", "pruned": "prune", "repaired": "repair", "final": "finetune"}


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json``, all at once, so that no half of it is ever read."""
    unfinished = folder / "report.json.part"
    unfinished.write_text(json.dumps(report, indent=2) + "\n")
    unfinished.replace(folder / "report.json")


def write_signal(folder: Path, signal: Mapping[str, SignalReport], title: str) -> None:
    """Write ``signal.csv``, one row a stage and layer, and ``variance_profile.png``."""
    rows = [
        {"stage": stage, "depth": depth, **asdict(row)}
        for stage, report in signal.items()
        for depth, row in enumerate(report.rows, start=1)
    ]
    if not rows:
        return
    with (folder / "signal.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plot_profiles(signal, title).savefig(folder / "variance_profile.png", dpi=150)


def print_table(report: Mapping[str, Any]) -> None:
    """Print the states side by side."""
    table = Table(title=report["title"], title_justify="left")
    for column in ("state", "after step", report["metric"], "sparsity", "seconds"):
        table.add_column(column, justify="left" if column == "state" else "right")
    for stage, details in report["stages"].items():
        seconds = report["seconds"].get(_SECONDS[stage], 0.0)
        table.add_row(
            stage, str(details["step"]), f"{details['value']:.4f}", f"{details['sparsity']:.4f}", f"{seconds:.2f}"
        )
    Console().print(table)
