"""The Hydra application ``reflow-lightning``."""

from __future__ import annotations

import logging
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.kept import find_finished
from reflow_lightning.experiments.overrides import check_overrides
from reflow_lightning.experiments.results import describe_error, note_error, objective
from reflow_lightning.experiments.search import found_sparsity, search

Report = dict[str, Any]
Task = Callable[[DictConfig, Path], Report]
"""Does what a configuration says, writes into a folder, and returns what ``report.json`` holds."""

_log = logging.getLogger(__name__)
_NOISE = (".*does not have many workers.*", ".*is smaller than the logging interval.*", ".*LeafSpec.*deprecated.*")


@hydra.main(version_base="1.3", config_path="pkg://reflow_lightning.conf", config_name="config")
def _app(cfg: DictConfig) -> float | None:
    return _do(run, objective, cfg)


@hydra.main(version_base="1.3", config_path="pkg://reflow_lightning.conf", config_name="search")
def _search(cfg: DictConfig) -> float | None:
    return _do(search, found_sparsity, cfg)


def _do(task: Task, result: Callable[[Report], float | None], cfg: DictConfig) -> float | None:
    """Do what the configuration says; what it returns is for sweepers: of an experiment, a validation metric."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    if hydra_cfg.mode == RunMode.MULTIRUN:
        report = _job(task, cfg, folder)
        return None if report is None else result(report)
    try:
        return result(task(cfg, folder))
    except Exception as error:
        note_error(folder, error)
        traceback.print_exception(error)
        raise SystemExit(f"\nreflow-lightning: {describe_error(error)}") from None  # last, where it is seen


def _job(task: Task, cfg: DictConfig, folder: Path) -> Report | None:
    """One job of a sweep: skipped if its result is there, and not allowed to stop the others."""
    if finished := find_finished(folder, cfg):
        print(f"{folder} holds the result of this job already: skipped")
        return finished
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # curves of an earlier try would mix with the new
    try:
        if cfg.trainer.devices not in (1, "1"):
            raise ValueError(
                f"a sweep with trainer.devices={cfg.trainer.devices} would start anew in each process: use 1"
            )
        return task(cfg, folder)
    except Exception as error:
        note_error(folder, error)
        _log.exception("this job failed, the sweep goes on")  # its end names the job and exits with 1
        return None


def main() -> None:
    """The console script ``reflow-lightning``; ``reflow-lightning search`` looks for the sparsity itself."""
    searches = sys.argv[1:2] == ["search"]
    if searches:
        del sys.argv[1]
    check_overrides(sys.argv[1:], "search" if searches else "config")
    (_search if searches else _app)()
