"""The end of a sweep: summary.csv and a picture of all jobs."""

from __future__ import annotations

import atexit
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from reflow_lightning.experiments.summary_plot import RESULTS, STATES, describe, plot, varied


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
            row |= {"status": "done"} | _results(json.loads((job / "report.json").read_text()))
        elif (job / "error.txt").exists():
            row["error"] = (job / "error.txt").read_text().splitlines()[0]
        else:
            row["error"] = "no report: it was killed, or still runs"
        rows.append(row)
    return rows


def _results(report: Mapping[str, Any]) -> dict[str, Any]:
    row = {"sparsity": report["sparsity"], "seconds": report["seconds"]["total"]}
    row |= {key: report[key] for key in ("metric", *STATES) if key in report}
    steps = {state: details["step"] for state, details in report.get("stages", {}).items()}
    gradual = steps.get("dense") != steps.get("pruned") and not report.get("rounds")
    if gradual:  # dense was an earlier network, no baseline
        del row["dense"]
    return row


def summarise(folder: Path) -> list[str]:
    """Write ``summary.csv`` and ``summary.png`` of a sweep, and print how its jobs ended.

    Args:
        folder: The sweep's folder.

    Returns:
        The numbers of the failed jobs.
    """
    rows = collect(folder)
    if not rows:
        return []
    keys = list({key: None for row in rows for key in row if key not in RESULTS})
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*keys, *(k for k in RESULTS if any(k in row for row in rows))])
        writer.writeheader()
        writer.writerows(rows)
    plot([row for row in rows if row["status"] == "done"]).savefig(folder / "summary.png", dpi=150)
    failed = [row for row in rows if row["status"] == "failed"]
    note = f", {len(failed)} failed: {', '.join(row['job'] for row in failed)}" if failed else ""
    print(f"{len(rows)} jobs{note}; summary.csv and summary.png are in {folder.resolve()}")
    for row in failed:
        print(f"  {row['job']} ({describe(row, ['sparsity', *varied(rows)])}): {row['error']}")
    return [row["job"] for row in failed]


class SweepSummary(Callback):
    """Hydra callback: writes ``summary.csv`` and ``summary.png`` into the sweep's folder when all jobs have ended."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the jobs of an earlier sweep in this folder, but not their results: every job notes itself again."""
        folder = Path(config.hydra.sweep.dir)
        for overrides in folder.glob("*/.hydra/overrides.yaml"):
            overrides.unlink()
        atexit.register(summarise, folder.absolute())  # if the launcher gives up, since a job was killed

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarise what the jobs left, which may have run in other processes; exit with 1 if one failed."""
        atexit.unregister(summarise)
        if summarise(Path(config.hydra.sweep.dir)):
            raise SystemExit(1)
