"""The end of a sweep: summary.csv and a plot of accuracy against sparsity over all jobs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STATES = {"dense": "#3b4a5a", "pruned": "#d1495b", "repaired": "#2a9d8f", "final": "#e9a23b"}
_RESULTS = ("metric", *_STATES, "seconds", "error")


def collect(folder: Path) -> list[dict[str, Any]]:
    """One row for each job of a sweep, finished or not, by number.

    Args:
        folder: The sweep's folder, with one subfolder a job.

    Returns:
        Rows with the job's number, its status, its overrides, its sparsity and the metric of each state.
    """
    jobs = [path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")]
    rows = []
    for job in sorted(jobs, key=lambda path: (len(path.name), path.name)):
        overrides = OmegaConf.to_container(OmegaConf.load(job / ".hydra" / "overrides.yaml"))
        assert isinstance(overrides, list)
        row: dict[str, Any] = {"job": job.name, "status": "failed"}
        row |= {key: value for key, _, value in (str(override).partition("=") for override in overrides)}
        if (job / "report.json").exists():
            report = json.loads((job / "report.json").read_text())
            row |= {"status": "done", "sparsity": report["sparsity"], "seconds": report["seconds"]["total"]}
            row |= {key: report[key] for key in ("metric", *_STATES) if key in report}
            steps = {state: details["step"] for state, details in report.get("stages", {}).items()}
            if steps.get("dense") != steps.get("pruned"):  # of a gradual schedule: an earlier network, no baseline
                del row["dense"]
        elif (job / "error.txt").exists():
            row["error"] = (job / "error.txt").read_text().strip()
        rows.append(row)
    return rows


def varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The overrides, beside the sparsity, in which the jobs differ."""
    keys = {key: None for row in rows for key in row if key not in ("job", "status", "sparsity", *_RESULTS)}
    return [key for key in keys if len({str(row.get(key)) for row in rows}) > 1]


def plot(rows: Sequence[dict[str, Any]]) -> Figure:
    """Metric against sparsity, a line for each state, a marker for each combination of the other overrides."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    others = varied(rows)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(", ".join(f"{key}={row.get(key)}" for key in others), []).append(row)
    figure = Figure(figsize=(7, 4.2) if len(groups) == 1 else (11, max(4.2, 0.6 * len(groups))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for marker, (name, group) in zip("osD^vPX*<>" * (len(groups) // 10 + 1), groups.items(), strict=False):
        for state, color in _STATES.items():
            points = sorted((row["sparsity"], row[state]) for row in group if state in row)
            if points:
                label = f"{state} ({name})" if name else state
                style: dict[str, Any] = (
                    {"linestyle": "--", "zorder": 3} if state == "dense" else {}
                )  # seen where lines coincide
                axes.plot(*zip(*points, strict=True), marker=marker, linewidth=2, color=color, label=label, **style)
    axes.set_xlabel("sparsity")
    axes.set_ylabel(next((str(row["metric"]) for row in rows if "metric" in row), "metric"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        (axes if len(groups) == 1 else figure).legend(
            frameon=False, fontsize=8, loc="best" if len(groups) == 1 else "outside right center"
        )
    return figure


class SweepSummary(Callback):
    """Hydra callback: writes ``summary.csv`` and ``summary.png`` into the sweep's folder when all jobs have ended."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarise what the jobs left, which may have run in other processes; exit with 1 if one failed."""
        folder = Path(config.hydra.sweep.dir)
        rows = collect(folder)
        if not rows:
            return
        keys = list({key: None for row in rows for key in row if key not in _RESULTS})
        with (folder / "summary.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=[*keys, *(k for k in _RESULTS if any(k in row for row in rows))])
            writer.writeheader()
            writer.writerows(rows)
        plot([row for row in rows if row["status"] == "done"]).savefig(folder / "summary.png", dpi=150)
        failed = [row["job"] for row in rows if row["status"] == "failed"]
        note = f", {len(failed)} failed: {', '.join(failed)}" if failed else ""
        print(f"{len(rows)} jobs{note}; summary.csv and summary.png are in {folder.resolve()}")
        if failed:
            raise SystemExit(1)
