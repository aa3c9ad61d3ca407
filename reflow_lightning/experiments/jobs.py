"""A run or a job of a sweep: do what a configuration says, or say why that failed."""

from __future__ import annotations

import logging
import os
import shutil
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from reflow_lightning.experiments.kept import find_finished
from reflow_lightning.experiments.paths import find_from
from reflow_lightning.experiments.results import cause_of, describe_error, note_error
from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.saying import saying_once

Report = dict[str, Any]
Task = Callable[[DictConfig, Path], Report]
"""Does what a configuration says, writes into a folder, and returns what ``report.json`` holds."""

_log = logging.getLogger(__name__)
_NOISE = (".*does not have many workers.*", ".*is smaller than the logging interval.*", ".*LeafSpec.*deprecated.*")
_REFUSED = (ReflowError, ValueError, TypeError, OSError, MisconfigurationException)


def do(task: Task, result: Callable[[Report], float | None], cfg: DictConfig) -> float | None:
    """Do what a configuration says, within Hydra.

    Args:
        task: What is done.
        result: What sweepers are told of its report: of an experiment, a validation metric.
        cfg: The composed configuration.

    Returns:
        The result; nothing for a job of a sweep that failed.

    Raises:
        SystemExit: If it failed, and is no job of a sweep. Its last line says why.
    """
    logging.getLogger("lightning").propagate = False  # it prints itself, and Hydra's handlers would say it once more
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    if hydra_cfg.job.chdir:
        find_from(Path(hydra_cfg.runtime.cwd), cfg)
    if hydra_cfg.mode == RunMode.MULTIRUN:
        with saying_once(set()):
            report = _job(task, cfg, folder)
        return None if report is None else result(report)
    try:
        with saying_once(set()):
            return result(task(cfg, folder))
    except Exception as error:
        note_error(folder, error)
        if not says_all(error):
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
        note_error(folder, error)  # the end of the sweep names the job and exits with 1
        told = says_all(error)
        _log.error(f"this job failed, the sweep goes on: {describe_error(error)}", exc_info=None if told else error)
        return None


def says_all(error: Exception) -> bool:
    """Whether the message of an error is enough, since it refuses what was given; or its traceback is needed.

    That is so of wrong arguments of what Hydra makes, and of what this package raises itself. ``HYDRA_FULL_ERROR=1``
    asks for all tracebacks.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1" or not isinstance(cause_of(error), _REFUSED):
        return False
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    ours = str(innermost.f_globals.get("__name__")).startswith("reflow_lightning.")
    return ours or isinstance(error, InstantiationException)
