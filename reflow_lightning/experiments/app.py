"""The Hydra application ``reflow-lightning``."""

from __future__ import annotations

import logging
import shutil
import sys
import traceback
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.kept import find_finished
from reflow_lightning.experiments.overrides import check_overrides
from reflow_lightning.experiments.results import describe_error, note_error, objective

_log = logging.getLogger(__name__)
_NOISE = (".*does not have many workers.*", ".*is smaller than the logging interval.*", ".*LeafSpec.*deprecated.*")


# Returns the validation metric of the last state, for sweepers.
@hydra.main(version_base="1.3", config_path="pkg://reflow_lightning.conf", config_name="config")
def _app(cfg: DictConfig) -> float | None:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    if hydra_cfg.mode == RunMode.MULTIRUN:
        return _job(cfg, folder)
    try:
        return objective(run(cfg, folder))
    except Exception as error:
        note_error(folder, error)
        traceback.print_exception(error)
        raise SystemExit(f"\nreflow-lightning: {describe_error(error)}") from None  # last, where it is seen


def _job(cfg: DictConfig, folder: Path) -> float | None:
    """One job of a sweep: skipped if its result is there, and not allowed to stop the others."""
    if finished := find_finished(folder, cfg):
        print(f"{folder} holds the result of this job already: skipped")
        return objective(finished)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # curves of an earlier try would mix with the new
    try:
        if cfg.trainer.devices not in (1, "1"):
            raise ValueError(
                f"a sweep with trainer.devices={cfg.trainer.devices} would start anew in each process: use 1"
            )
        return objective(run(cfg, folder))
    except Exception as error:
        note_error(folder, error)
        _log.exception("this job failed, the sweep goes on")  # its end names the job and exits with 1
        return None


def main() -> None:
    """The console script ``reflow-lightning``."""
    check_overrides(sys.argv[1:])
    _app()
