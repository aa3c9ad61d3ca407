"""The results that a sweep's folder holds already: found again, and never overwritten by another sweep."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reflow_lightning.experiments.results import fingerprint, read_finished, read_report

_ASIDE = "earlier"
_OF_HYDRA = (".hydra", "*.log", "multirun.yaml")  # written for the present job before it begins


def find_finished(folder: Path, cfg: DictConfig) -> dict[str, Any] | None:
    """The report of this very job, if it was finished before, in this folder or under another number.

    What another job left in the folder is put aside, into ``earlier/<its fingerprint>`` beside it.

    Args:
        folder: The job's folder, one of the sweep's.
        cfg: The job's configuration.
    """
    if finished := read_finished(folder, cfg):
        return finished
    if other := read_report(folder):
        _move(folder, folder.parent / _ASIDE / str(other.get("config")))
    aside = folder.parent / _ASIDE / fingerprint(cfg)
    if finished := read_finished(aside, cfg):
        _move(aside, folder)
    return finished


def _move(source: Path, target: Path) -> None:
    """Move the results; the report last, so that a target with a report is whole."""
    target.mkdir(parents=True, exist_ok=True)
    results = [path for path in source.iterdir() if not any(path.match(pattern) for pattern in _OF_HYDRA)]
    for path in sorted(results, key=lambda path: path.name == "report.json"):
        if (target / path.name).is_dir():
            shutil.rmtree(target / path.name)
        shutil.move(path, target / path.name)
