"""The Hydra application: train, prune, repair, test every state, report."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from reflow_lightning.callback import Reflow
from reflow_lightning.experiments.overrides import check_overrides
from reflow_lightning.experiments.results import print_table, write_report, write_signal
from reflow_lightning.experiments.stages import Stages
from reflow_lightning.pruning import select

_log = logging.getLogger(__name__)
_NOISE = (".*does not have many workers.*", ".*is smaller than the logging interval.*", ".*LeafSpec.*deprecated.*")


def run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Run one experiment and write its results.

    Args:
        cfg: The composed configuration, as in ``conf/config.yaml``.
        folder: Where the results go.

    Returns:
        What ``report.json`` holds.

    Raises:
        RuntimeError: If the training ended before anything was pruned.
    """
    start = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data: pl.LightningDataModule = instantiate(cfg.data)
    module: pl.LightningModule = instantiate(cfg.model)
    reflow: Reflow = instantiate(cfg.reflow)
    stages = Stages()
    reflow.listeners.append(stages.record)
    trainer = _trainer(
        cfg,
        callbacks=[reflow, *instantiate(cfg.callbacks).values()],
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
    )
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    fitted = time.perf_counter() - began
    if not reflow.events:
        raise RuntimeError(f"training ended at step {trainer.global_step} before schedule={reflow.schedule} pruned")
    trainer.save_checkpoint(folder / "pruned.ckpt", weights_only=False)
    stages.finish(trainer, module)
    report = {
        "title": str(cfg.title),
        "seed": int(cfg.seed),
        "metric": str(cfg.metric),
        **_tested(cfg, stages, module, data),
    }
    event = reflow.events[-1]
    report["sparsity"] = report["stages"]["repaired"]["sparsity"]
    report["seconds"] = _seconds(reflow, fitted) | {"total": time.perf_counter() - start}
    report["calibration"] = {"batches": event.calibration.batches, "layers": len(event.calibration.repaired)}
    write_signal(folder, event.signal, f"{cfg.title}, sparsity {event.masks.sparsity:.3g}")
    write_report(folder, report)
    print_table(report, folder)
    return report


def _trainer(cfg: DictConfig, **options: Any) -> pl.Trainer:
    shown = bool(cfg.trainer.enable_progress_bar) and sys.stderr.isatty()
    trainer: pl.Trainer = instantiate(cfg.trainer, **options, enable_progress_bar=shown)
    return trainer


def _tested(
    cfg: DictConfig, stages: Stages, module: pl.LightningModule, data: pl.LightningDataModule
) -> dict[str, Any]:
    """Test every recorded state: its metric by name, and its step, metric and sparsity under ``stages``."""
    tested: dict[str, Any] = {"stages": {}}
    tester = _trainer(cfg, logger=False, callbacks=[])
    for stage, state in stages.states.items():
        module.load_state_dict(state)
        metrics = tester.test(module, datamodule=data, verbose=False)[0]
        weights = list(select(module, cfg.reflow.include, cfg.reflow.exclude).values())
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        tested[stage] = metrics[f"test/{cfg.metric}"]
        tested["stages"][stage] = {
            "step": stages.steps[stage],
            "value": tested[stage],
            "sparsity": zeros / sum(weight.numel() for weight in weights),
        }
    return tested


def _seconds(reflow: Reflow, fitted: float) -> dict[str, float]:
    """Seconds by activity; training is what is left of the fit, before and after the last event alike."""
    prune = sum(event.seconds["prune"] for event in reflow.events)
    repair = sum(event.seconds["repair"] for event in reflow.events)
    return {"train": fitted - prune - repair, "prune": prune, "repair": repair}


# Returns the metric of the last state, for sweepers.
@hydra.main(version_base="1.3", config_path="pkg://reflow_lightning.conf", config_name="config")
def _app(cfg: DictConfig) -> float:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    hydra_cfg = HydraConfig.get()
    try:
        report = run(cfg, Path(hydra_cfg.runtime.output_dir))
    except Exception:
        if hydra_cfg.mode != RunMode.MULTIRUN:
            raise
        _log.exception("this job failed, the sweep goes on")  # its end names the job and exits with 1
        return math.nan
    return float(report.get("final", report["repaired"]))


def main() -> None:
    """The console script ``reflow-lightning``."""
    check_overrides(sys.argv[1:])
    _app()
