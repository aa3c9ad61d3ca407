"""``reflow-lightning search``: how sparse a network can go, by its validation data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table
from torch import nn

from reflow_lightning.callbacks import Reflow
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.experiments.clock import Clock
from reflow_lightning.experiments.collapsing import collapse_network
from reflow_lightning.experiments.commands import begin, reported
from reflow_lightning.experiments.experiment import cost_of, measure_stages, pruned_network
from reflow_lightning.experiments.inputs import calibration_loader
from reflow_lightning.experiments.loggers import log_report, make_loggers
from reflow_lightning.experiments.metrics import check_metric, validated
from reflow_lightning.experiments.rehearsal import rehearse
from reflow_lightning.experiments.results import print_table, print_with_notes, write_report
from reflow_lightning.experiments.resume import Resume
from reflow_lightning.experiments.saved_trials import SavedTrials
from reflow_lightning.experiments.search_plot import plot_search
from reflow_lightning.experiments.spreading import copy_state
from reflow_lightning.experiments.stages import Stages
from reflow_lightning.experiments.training import fit, load_or_pretrain, make_trainer, trains
from reflow_lightning.running.files import write_tensors
from reflow_lightning.search import Search, find_sparsity
from reflow_lightning.search.checks import check_limits


def search(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Train or load a dense network, find its sparsity, test it dense, pruned and repaired, and write the results.

    Args:
        cfg: The composed configuration, as in ``conf/search.yaml``.
        folder: Where the results go.

    Returns:
        What ``report.json`` holds: as for an experiment, and all trials under ``search``.

    Raises:
        ValueError: If an argument is out of range, or the data have no validation.
    """
    clock = Clock()
    resume = Resume(cfg, folder, clock)
    begin(cfg, folder)
    tester = make_trainer(cfg, logger=False, callbacks=[])
    if tester.world_size > 1:
        raise ValueError(f"a search with trainer.devices={cfg.trainer.devices}: it runs in one process, use 1")
    data: pl.LightningDataModule = instantiate(cfg.data)
    print(f"{cfg.title}: results go to {folder}", flush=True)
    data.prepare_data()
    data.setup("fit")
    module: pl.LightningModule = instantiate(cfg.module)
    reflow: Reflow = instantiate(cfg.reflow, calibration_data=data)  # how to prune and repair
    check_limits(cfg.max_drop, cfg.tolerance)
    logged = rehearse(cfg, module, data, reflow)
    if logged is not None:
        check_metric(str(cfg.metric), "val", logged)
    load_or_pretrain(cfg, module, data, folder, resume)
    trainer = fit(cfg, module, data, folder, resume) if trains(cfg) else None
    steps, loggers = (trainer.global_step, list(trainer.loggers)) if trainer else (0, make_loggers(cfg, folder))
    trained = clock.seconds()
    found = _find(cfg, tester, module, data, reflow.pruner, resume.trials())
    searched = clock.seconds()
    reflow.pruner.masks = found.masks
    tested = measure_stages(cfg, tester, _stages(module, found, steps), module, data)
    collapsed, tables = collapse_network(cfg, tester, module, data, folder) if cfg.collapse else (None, "")
    results = {
        **tested,
        "validation": _sign(cfg) * found.score,
        "sparsity": found.sparsity,
        "search": _as_dict(found, _sign(cfg)),
        "cost": cost_of(module, data),
        "collapse": collapsed,
        "seconds": {"train": trained, "search": searched - trained, "total": clock.seconds()},
    }
    report = reported(cfg, tester, f"{cfg.title}: sparsity {found.sparsity:.4f}", {}, results)
    write_tensors(folder / "pruned.ckpt", pruned_network(module, reflow))
    plot_search(report).savefig(folder / "search.png")
    write_report(folder, report)
    log_report(loggers, cfg, report)
    print_trials(report)
    print_table(report)
    if tables:
        print(tables)
    resume.forget()
    return report


def found_sparsity(report: Mapping[str, Any]) -> float:
    """What a sweeper is told: the sparsity that was found."""
    return float(report["sparsity"])


def _find(
    cfg: DictConfig,
    tester: pl.Trainer,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    pruner: Pruner,
    known: SavedTrials,
) -> Search:
    device = tester.strategy.root_device

    def evaluate(model: nn.Module) -> float:
        assert isinstance(model, pl.LightningModule)
        found = validated(tester, model, data)
        model.to(device)  # Lightning leaves it on the CPU
        check_metric(str(cfg.metric), "val", found)
        return _sign(cfg) * found[f"val/{cfg.metric}"]

    module.trainer = None  # what the search copies is the network, not its trainer
    return find_sparsity(
        module.to(device),
        calibration_loader(data),
        evaluate,
        max_drop=cfg.max_drop,
        tolerance=cfg.tolerance,
        **vars(pruner.spec),
        steps=pruner.steps,
        repair=pruner.repair,
        max_batches=pruner.calibration_batches,
        forward=pruner.forward,
        seed=pruner.seed,
        known=known,
    )


def _sign(cfg: DictConfig) -> int:
    """-1 for a metric that is better when lower, as the monitor of the same name says."""
    return -1 if cfg.mode == "min" and cfg.monitor == f"val/{cfg.metric}" else 1


def _stages(module: pl.LightningModule, found: Search, steps: int) -> Stages:
    """The network dense, pruned to what was found, and repaired."""
    stages, repaired = Stages(), copy_state(module)
    found.undo()
    stages.keep("dense", copy_state(module), steps)
    found.masks.apply(module)
    stages.keep("pruned", copy_state(module), steps)
    stages.keep("repaired", repaired, steps)
    return stages


def _as_dict(found: Search, sign: int) -> dict[str, Any]:
    trials = [
        {**trial._asdict(), "score": sign * trial.score, "within": found.is_within(trial.score)}
        for trial in found.trials
    ]
    return {
        "max_drop": found.max_drop,
        "dense": sign * found.dense_score,
        "threshold": sign * (found.dense_score - found.max_drop),
        "found": sign * found.score,
        "trials": trials,
    }


def print_trials(report: Mapping[str, Any]) -> None:
    """Print what was tried, the sparsest last, and what was found."""
    details = report["search"]
    found = f"sparsity {report['sparsity']:.4f} with" if report["sparsity"] else "nothing within the drop: dense with"
    note = (
        f"{found} {details['found']:.4f}, the dense network {details['dense']:.4f}, max_drop {details['max_drop']:g}; "
        f"{len(details['trials'])} trials in {report['seconds']['search']:.1f} s"
    )
    table = Table(title="Trials", title_justify="left")
    for column in ("sparsity", f"validation {report['metric']}", "change", "within", "seconds"):
        table.add_column(column, justify="right")
    for trial in sorted(details["trials"], key=lambda trial: trial["sparsity"]):
        table.add_row(
            f"{trial['sparsity']:.4f}",
            f"{trial['score']:.4f}",
            f"{trial['score'] - details['dense']:+.4f}",
            "yes" if trial["within"] else "no",
            f"{trial['seconds']:.2f}",
        )
    print_with_notes(table, [note])
