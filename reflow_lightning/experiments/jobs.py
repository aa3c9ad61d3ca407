"""A run or a job of a sweep: do what a configuration says, or say why that failed."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from reflow_lightning.experiments.kept import find_finished
from reflow_lightning.experiments.log_file import kept_in_file
from reflow_lightning.experiments.loggers import end_wandb
from reflow_lightning.experiments.parts import check_parts
from reflow_lightning.experiments.paths import find_from
from reflow_lightning.experiments.results import describe_error, note_error
from reflow_lightning.experiments.resume import is_first, is_unfinished, only_one
from reflow_lightning.experiments.unfinished import is_same
from reflow_lightning.running.saying import saying_once

Report = dict[str, Any]
Task = Callable[[DictConfig, Path], Report]
"""Does what a configuration says, writes into a folder, and returns what ``report.json`` holds."""

_log = logging.getLogger(__name__)
_NOISE = (
    ".*your dataloader is not resumable.*",
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*LeafSpec.*deprecated.*",
    ".*Using `DistributedSampler` with the dataloaders.*",  # docs/how_to/sweeps.md says it once for all
)


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
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = _without_place  # a line of the command's own script tells nothing
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    if hydra_cfg.job.chdir:
        find_from(Path(hydra_cfg.runtime.cwd), cfg)
    begin = _job if hydra_cfg.mode == RunMode.MULTIRUN else _run
    with saying_once(set()), kept_in_file():
        try:
            report = begin(task, cfg, folder)
        finally:
            end_wandb()
    return None if report is None else result(report)


def _without_place(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    return f"{category.__name__}: {message}\n"


def _run(task: Task, cfg: DictConfig, folder: Path) -> Report:
    """A run of its own."""
    try:
        with only_one(folder):
            _check_unfinished(cfg, folder)
            check_parts(cfg)
            return task(cfg, folder)
    except (KeyboardInterrupt, SystemExit) as stop:
        saved = is_unfinished(folder)
        way = "the same command with resume=true goes on from its last checkpoint"
        raise _stopped(stop, way if saved else "there was no checkpoint yet") from None
    except Exception as error:
        where = note_error(folder, error)
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or where is None:
            traceback.print_exception(error)
        raise _ended(describe_error(error), 1) from None


def _stopped(stop: KeyboardInterrupt | SystemExit, way_on: str) -> SystemExit:
    """The end of a process that was told to stop: Lightning turns both signals into exits of its own."""
    told = isinstance(stop, SIGTERMException)
    if not told and isinstance(stop, SystemExit) and stop.code != 1:
        return stop  # of somebody else's
    return _ended(f"stopped by {'SIGTERM' if told else 'Ctrl-C'}; {way_on}", 143 if told else 130)


def _ended(text: str, status: int) -> SystemExit:
    """The end of the process, after a last line, where it is seen."""
    sys.stderr.write(f"\nreflow-lightning: {text}\n")
    return SystemExit(status)


def _check_unfinished(cfg: DictConfig, folder: Path) -> None:
    """Refuse to begin anew where checkpoints are, unless that was asked for: they may hold days of work."""
    if is_first() and cfg.resume is None and cfg.ckpt_path is None and is_unfinished(folder):
        raise ValueError(f"{folder} holds an unfinished run: resume=true goes on with it, resume=false begins anew")


def _job(task: Task, cfg: DictConfig, folder: Path) -> Report | None:
    """One job of a sweep: skipped if its result is there, and not allowed to stop the others."""
    try:
        check_parts(cfg)  # what is missing can't be compared with the results that are there
        if finished := find_finished(folder, cfg):
            print(f"{folder} holds the result of this job already: skipped")
            return finished
        if cfg.trainer.devices not in (1, "1"):
            raise ValueError(
                f"a sweep with trainer.devices={cfg.trainer.devices} would start anew in each process: use 1"
            )
        with only_one(folder):
            if cfg.resume is None:
                cfg.resume = (folder / "checkpoints").exists() and is_same(cfg, folder)
            if cfg.share is None:
                cfg.share = str(folder.parent / "dense")
            if not cfg.resume:
                shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # of another try, whose curves would mix
            return task(cfg, folder)
    except (KeyboardInterrupt, SystemExit) as stop:
        sweep = HydraConfig.get().sweep.dir
        raise _stopped(
            stop, f"the same command with hydra.sweep.dir={sweep} goes on with its unfinished jobs"
        ) from None
    except Exception as error:
        note_error(folder, error)  # the end of the sweep names the job and exits with 1
        shown = error if os.environ.get("HYDRA_FULL_ERROR") == "1" else None
        _log.error(f"this job failed, the sweep goes on: {describe_error(error)}", exc_info=shown)
        return None
