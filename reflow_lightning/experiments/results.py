"""What a run leaves behind: report.json, signal.csv, variance_profile.png, and a table for the eye."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from reflow_lightning.callbacks.profiles import as_csv
from reflow_lightning.running.extras import missing
from reflow_lightning.running.files import write_whole
from reflow_lightning.signal import SignalReport, plot_profiles
from reflow_lightning.signal.report import profile_rows

_HOW_TO_GO_ON = ("resume", "share", "ckpt_path", "checkpoint", "logger", "print_config", "rehearse", "output_dir")
_SECONDS = {"dense": "train", "pruned": "prune", "repaired": "repair", "final": "finetune"}


def fingerprint(cfg: DictConfig) -> str:
    """A short name of all that the configuration says and of the checkpoint's content, the same for the same job."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    said = {key: value for key, value in plain.items() if key not in _HOW_TO_GO_ON}
    content = json.dumps(said, sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode())
    if cfg.get("ckpt") is not None and Path(cfg.ckpt).is_file():
        with Path(cfg.ckpt).open("rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
    return digest.hexdigest()[:16]


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json``, all at once, so that no half of it is ever read."""
    text = json.dumps(report, indent=2) + "\n"
    write_whole(folder / "report.json", text.encode())


def cause_of(error: Exception) -> Exception:
    """What went wrong, without where in the configuration Hydra found it."""
    wrapped = isinstance(error, InstantiationException) and error.__cause__
    return cast("Exception", error.__cause__) if wrapped else error


def describe_error(error: Exception) -> str:
    """What made a run fail, as a text.

    Example:
        >>> describe_error(ValueError("sparsity=2 is outside [0, 1)"))
        'ValueError: sparsity=2 is outside [0, 1)'
    """
    error = cause_of(error)
    way = missing(error) if isinstance(error, ImportError) else ""
    return f"{type(error).__name__}: {error}{f': {way}' if way else ''}".strip()


def note_error(folder: Path, error: Exception) -> Path | None:
    """Write ``error.txt`` in place of a report: what made a run fail, then the traceback.

    Returns:
        The file; ``None`` if the error is that nothing can be written.
    """
    path = folder / "error.txt"
    try:
        (folder / "report.json").unlink(missing_ok=True)
        path.write_text(f"{describe_error(error)}\n\n{''.join(traceback.format_exception(error))}")
    except OSError:
        return None
    return path


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report in a folder, if there is a whole one."""
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return report


def read_finished(folder: Path, cfg: DictConfig) -> dict[str, Any] | None:
    """The report in a folder, if it is there and of this very configuration."""
    report = read_report(folder)
    return report if report is not None and report.get("config") == fingerprint(cfg) else None


def objective(report: Mapping[str, Any]) -> float | None:
    """What a sweeper is told: the *validation* metric of the last state, or nothing if there is no number."""
    value = report["validation"]
    return None if value is None or math.isnan(value) else float(value)


def write_signal(folder: Path, signal: Mapping[str, SignalReport], title: str) -> None:
    """Write ``signal.csv``, one row a stage and layer, and ``variance_profile.png``."""
    rows = profile_rows(signal)
    if not rows:
        return
    (folder / "signal.csv").write_text(as_csv(rows), newline="")
    plot_profiles(signal, title).savefig(folder / "variance_profile.png")


def print_table(report: Mapping[str, Any]) -> None:
    """Print the states side by side, with what was published where that is known, and what the network costs."""
    published = report["published"]
    cost = report["cost"]
    costs = cost and (
        f"{_short(cost['nonzero'])} of {_short(cost['parameters'])} parameters are not zero, "
        f"{_short(cost['effective'])} of {_short(cost['multiply_adds'])} multiply-adds"
    )
    told = [f"repair: {report['recipe']}" if report.get("recipe") else "", told_of_test(report)]
    known = any(details.get("interval") for details in report["stages"].values())
    table = Table(title=report["title"], title_justify="left")
    between = [*(["95 % interval"] if known else []), *(["published"] if published else [])]
    columns = ["state", "after step", report["metric"], *between, "sparsity", "seconds"]
    for column in columns:
        table.add_column(column, justify="left" if column == "state" else "right")
    for stage, details in report["stages"].items():
        seconds = report["seconds"].get(_SECONDS[stage])
        row = [stage, str(details["step"]), f"{details['value']:.4f}"]
        if known:
            row.append("{:.3f} to {:.3f}".format(*details["interval"]) if details.get("interval") else "")
        if published:
            row.append(f"{published[stage]:.4f}" if published.get(stage) is not None else "")
        table.add_row(*row, f"{details['sparsity']:.4f}", "" if seconds is None else f"{seconds:.2f}")
    print_with_notes(table, [costs, *told])
    if report.get("rounds"):
        Console().print(_table_of_rounds(report["rounds"]))


def print_with_notes(table: Table, notes: Iterable[str | None]) -> None:
    """Print a table and lines below it, which are not broken at its width as a caption would be, within numbers."""
    console = Console()
    console.print(table)
    for note in filter(None, notes):
        console.print(note, soft_wrap=True, highlight=False)


def told_of_test(report: Mapping[str, Any]) -> str:
    """That the test left out a part of its data, if it did.

    Example:
        >>> told_of_test({"tested": {"batches": 2, "of": 12}})
        'tested on 2 of 12 batches alone'
        >>> told_of_test({"tested": {"batches": 12, "of": 12}})
        ''
    """
    tested = report.get("tested")
    if tested is None or tested["batches"] >= tested["of"]:
        return ""
    return f"tested on {tested['batches']} of {tested['of']} batches alone"


def _table_of_rounds(rounds: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="rounds, by their best validation", title_justify="left")
    for column in ("round", "epoch", "sparsity", "validation", "good enough"):
        table.add_column(column, justify="right")
    for row in rounds:
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        cells = (row["number"], row["epoch"], f"{row['sparsity']:.4f}", value, "yes" if row["kept"] else "no")
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    return table


def _short(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
