"""The end of a sweep: a table, a picture and a page of all jobs."""

from __future__ import annotations

import atexit
import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from reflow_lightning.experiments.grouping import RESULTS, STATES
from reflow_lightning.experiments.results import told_of_test
from reflow_lightning.experiments.summary_page import write_page
from reflow_lightning.experiments.summary_plot import describe, plot, varied


def jobs_in(folder: Path) -> list[Path]:
    """The folders of a sweep's jobs, or of any runs, below a folder or that folder itself; by number or name."""
    found = [path.parent.parent for path in folder.rglob(".hydra/overrides.yaml")]
    return sorted(found, key=lambda path: (len(path.parts), len(path.name), str(path)))


def collect(folder: Path) -> list[dict[str, Any]]:
    """One row for each job of a sweep, finished or not, by number.

    Args:
        folder: The sweep's folder, with one subfolder a job.

    Returns:
        Rows with the job's number, its status, its overrides, its sparsity and the metric of each state.
    """
    return [row_of(job, str(job.relative_to(folder)) if job != folder else job.name) for job in jobs_in(folder)]


def row_of(job: Path, name: str) -> dict[str, Any]:
    """The row of a job; see `collect`."""
    overrides = OmegaConf.to_container(OmegaConf.load(job / ".hydra" / "overrides.yaml"))
    assert isinstance(overrides, list)
    row: dict[str, Any] = {"job": name, "status": "failed"}
    row |= {key.lstrip("+"): value for key, _, value in (str(override).partition("=") for override in overrides)}
    if (job / "report.json").exists():
        row |= {"status": "done"} | _results(json.loads((job / "report.json").read_text()))
    elif (job / "error.txt").exists():
        row["error"] = (job / "error.txt").read_text().splitlines()[0]
    else:
        row["error"] = "no report: it was killed, or still runs"
    return row


def _results(report: Mapping[str, Any]) -> dict[str, Any]:
    row = {"sparsity": report["sparsity"], "seconds": report["seconds"]["total"]}
    row |= {key: report[key] for key in ("metric", *STATES) if key in report}
    if told := told_of_test(report):
        row["note"] = told
    steps = {state: details["step"] for state, details in report.get("stages", {}).items()}
    gradual = steps.get("dense") != steps.get("pruned") and not report.get("rounds")
    if gradual:  # dense was an earlier network, no baseline
        del row["dense"]
    return row


def with_defaults(rows: Sequence[Mapping[str, Any]], jobs: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of jobs, each with a value for every key that one of them overrides.

    Where jobs override different keys, all values come from the jobs' configurations, so that they are written alike.
    Rows of jobs that left no configuration stay as they are.

    Args:
        rows: See `collect`.
        jobs: The folder of each.
    """
    of_job = {"job", "status", "sparsity", *RESULTS}
    by_job = [[key for key in row if key not in of_job and not key.startswith("~")] for row in rows]
    overridden = dict.fromkeys(chain.from_iterable(by_job))
    if all(overridden.keys() == set(keys) for keys in by_job):
        return [dict(row) for row in rows]
    return [dict(row) | _configured(job, overridden) for row, job in zip(rows, jobs, strict=True)]


def _configured(job: Path, keys: Iterable[str]) -> dict[str, str]:
    """The values of some keys in a job's configuration, as text. Keys that it lacks are left out."""
    config, of_hydra = (job / ".hydra" / f"{name}.yaml" for name in ("config", "hydra"))
    if not (config.exists() and of_hydra.exists()):
        return {}
    values = OmegaConf.to_container(OmegaConf.load(config))  # what refers to other keys stays a reference
    choices: Any = OmegaConf.to_container(OmegaConf.load(of_hydra).hydra.runtime.choices)
    found = {}
    for key in keys:
        node: Any = choices if key in choices else values
        for part in [key] if key in choices else key.split("."):
            node = node.get(part, ...) if isinstance(node, dict) else ...
        if node is not ...:
            found[key] = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False).replace('"', "")
    return found


def summarise(*folders: Path, into: Path | None = None) -> list[str]:
    """Write ``summary.csv``, ``summary.png`` and ``summary.html`` of sweeps or runs, and print how their jobs ended.

    Args:
        folders: Those of the sweeps, or of single runs.
        into: Where the summary goes; ``None`` for the first folder.

    Returns:
        The names of the failed jobs.
    """
    into = into or folders[0]
    jobs = [job for folder in folders for job in jobs_in(folder)]
    several = len(folders) > 1
    rows = [row for folder in folders for row in collect(folder)]
    if several:
        for row, job in zip(rows, jobs, strict=True):
            row["job"] = f"{job.parent.name}/{job.name}"
    if not rows:
        return []
    rows = with_defaults(rows, jobs)
    keys = list({key: None for row in rows for key in row if key not in RESULTS})
    with (into / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*keys, *(k for k in RESULTS if any(k in row for row in rows))])
        writer.writeheader()
        writer.writerows(rows)
    plot([row for row in rows if row["status"] == "done"]).savefig(into / "summary.png")
    write_page(into / "summary.html", rows, jobs, ", ".join(folder.resolve().name for folder in folders))
    failed = [row for row in rows if row["status"] == "failed"]
    note = f", {len(failed)} failed: {', '.join(row['job'] for row in failed)}" if failed else ""
    print(f"{len(rows)} jobs{note}; summary.html, summary.csv and summary.png are in {into.resolve()}")
    for row in failed:
        print(f"  {row['job']} ({describe(row, ['sparsity', *varied(rows)])}): {row['error']}")
    return [row["job"] for row in failed]


def report(arguments: Sequence[str]) -> int:
    """``reflow-lightning report FOLDER...``: the summary of any sweeps and runs, in the present folder if several.

    Returns:
        The exit status: 0, or 2 if a folder is missing or none holds a run.
    """
    folders = [Path(argument) for argument in arguments]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    found = [job for folder in folders if folder.is_dir() for job in jobs_in(folder)]
    if missing or not found:
        what = f"there is no folder {', '.join(missing)}" if missing else "no run of reflow-lightning is in there"
        sys.stderr.write(f"reflow-lightning: {what}; write reflow-lightning report FOLDER..., with folders of runs\n")
        return 2
    summarise(*folders, into=folders[0] if len(folders) == 1 else Path())
    return 0


class SweepSummary(Callback):
    """Hydra callback: writes the summary into the sweep's folder when all jobs have ended."""

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
