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
from reflow_lightning.signal import SignalReport

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
    for name in ("report.json", "error.txt"):  # of an earlier run in this folder
        (folder / name).unlink(missing_ok=True)
    pl.seed_everything(int(cfg.seed), workers=True, verbose=False)
    data: pl.LightningDataModule = instantiate(cfg.data)
    module: pl.LightningModule = instantiate(cfg.model)
    reflow: Reflow = instantiate(cfg.reflow)
    stages = Stages()
    reflow.listeners.append(stages.record)
    logger = TensorBoardLogger(folder, name="tensorboard", version="")
    trainer = _trainer(cfg, callbacks=[reflow, *instantiate(cfg.callbacks).values()], logger=logger)
    if trainer.is_global_zero:
        print(f"{cfg.title}: results go to {folder}", flush=True)
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    ended = time.perf_counter()
    if not reflow.events:
        raise RuntimeError(f"training ended at step {trainer.global_step} before schedule={reflow.schedule} pruned")
    trainer.save_checkpoint(folder / "pruned.ckpt", weights_only=False)
    stages.finish(trainer, module)
    report = {
        "title": str(cfg.title),
        "seed": int(cfg.seed),
        "metric": str(cfg.metric),
        **_tested(cfg, stages, module, data),
        "seconds": _seconds(reflow, began, stages.times["repaired"], ended),
    }
    event = reflow.events[-1]
    report["sparsity"] = report["stages"]["repaired"]["sparsity"]
    report["seconds"]["total"] = time.perf_counter() - start
    report["calibration"] = {"batches": event.calibration.batches, "layers": len(event.calibration.repaired)}
    if trainer.is_global_zero:
        write_signal(folder, _labelled(reflow), f"{cfg.title}, sparsity {event.sparsity:.3g}")
        write_report(folder, report)
        print_table(report)
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
        if f"test/{cfg.metric}" not in metrics:
            known = ", ".join(name.removeprefix("test/") for name in metrics)
            raise ValueError(f"metric={cfg.metric} is not among what the test logs: {known}")
        tested[stage] = metrics[f"test/{cfg.metric}"]
        tested["stages"][stage] = {
            "step": stages.steps[stage],
            "value": tested[stage],
            "sparsity": zeros / sum(weight.numel() for weight in weights),
        }
    return tested


def _labelled(reflow: Reflow) -> dict[str, SignalReport]:
    """The signal at the last event; what came before a later event of a gradual schedule was not dense."""
    signal = dict(reflow.events[-1].signal)
    return signal if len(reflow.events) == 1 else {"before": signal.pop("dense"), **signal} if signal else signal


def _seconds(reflow: Reflow, began: float, repaired: float, ended: float) -> dict[str, float]:
    """Seconds by activity; training is what is left of the fit up to the last repair."""
    prune = sum(event.seconds["prune"] for event in reflow.events)
    repair = sum(event.seconds["repair"] for event in reflow.events)
    return {"train": repaired - began - prune - repair, "prune": prune, "repair": repair, "finetune": ended - repaired}


# Returns the metric of the last state, for sweepers.
@hydra.main(version_base="1.3", config_path="pkg://reflow_lightning.conf", config_name="config")
def _app(cfg: DictConfig) -> float:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode == RunMode.MULTIRUN and cfg.trainer.devices not in (1, "1"):
        raise SystemExit(f"a sweep with trainer.devices={cfg.trainer.devices} would start anew in each process: use 1")
    try:
        report = run(cfg, Path(hydra_cfg.runtime.output_dir))
    except Exception as error:
        Path(hydra_cfg.runtime.output_dir, "error.txt").write_text(f"{type(error).__name__}: {error}\n")
        if hydra_cfg.mode != RunMode.MULTIRUN:
            raise
        _log.exception("this job failed, the sweep goes on")  # its end names the job and exits with 1
        return math.nan
    return float(report.get("final", report["repaired"]))


def main() -> None:
    """The console script ``reflow-lightning``."""
    check_overrides(sys.argv[1:])
    _app()
