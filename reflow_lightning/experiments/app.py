"""The Hydra application ``reflow-lightning``."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.overrides import check_overrides
from reflow_lightning.experiments.results import last_metric, read_finished

_log = logging.getLogger(__name__)
_NOISE = (".*does not have many workers.*", ".*is smaller than the logging interval.*", ".*LeafSpec.*deprecated.*")


# Returns the metric of the last state, for sweepers.
@hydra.main(version_base="1.3", config_path="pkg://reflow_lightning.conf", config_name="config")
def _app(cfg: DictConfig) -> float:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    if hydra_cfg.mode != RunMode.MULTIRUN:
        try:
            return last_metric(run(cfg, folder))
        except Exception as error:
            _note(folder, error)
            raise
    if cfg.trainer.devices not in (1, "1"):
        raise SystemExit(f"a sweep with trainer.devices={cfg.trainer.devices} would start anew in each process: use 1")
    if finished := read_finished(folder, cfg):
        print(f"{folder} holds the result of this job already: skipped")
        return last_metric(finished)
    try:
        return last_metric(run(cfg, folder))
    except Exception as error:
        _note(folder, error)
        _log.exception("this job failed, the sweep goes on")  # its end names the job and exits with 1
        return math.nan


def _note(folder: Path, error: Exception) -> None:
    (folder / "error.txt").write_text(f"{type(error).__name__}: {error}\n")


def main() -> None:
    """The console script ``reflow-lightning``."""
    check_overrides(sys.argv[1:])
    _app()
