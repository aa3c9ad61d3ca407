"""A batch of the validation and of the test before anything is trained: a mistake costs seconds, not days."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig

from reflow_lightning.callbacks import Reflow
from reflow_lightning.experiments.metrics import check_metric, check_monitor, tested, validated
from reflow_lightning.experiments.position import generators_in_data
from reflow_lightning.experiments.training import make_trainer, trains
from reflow_lightning.running.generators import generators_in
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.traces import Traces

Logged = dict[str, float]


def rehearse(
    cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, reflow: Reflow
) -> Logged | None:
    """Validate and test a batch, and check that what the configuration asks for is logged there.

    Random states are left as they were, and so is the module: its buffers, and what its attributes hold.

    Args:
        cfg: The configuration; with ``rehearse=false`` nothing is done.
        module: What will be trained and tested.
        data: What it will be tested on.
        reflow: Its schedule may watch a metric, too.

    Returns:
        What the validation logs; ``None`` if nothing was done.

    Raises:
        ValueError: If a step fails, there is nothing to test, or ``metric`` or a monitor is not logged.
    """
    if not cfg.rehearse:
        return None
    splits = ("val", "test")
    limits: dict[str, Any] = {
        f"limit_{split}_batches": 0 if cfg.trainer.get(f"limit_{split}_batches") == 0 else 1 for split in splits
    }
    # Without inference mode: what a network caches on its way must be fit for training.
    tester = make_trainer(cfg, logger=False, inference_mode=False, profiler=None, **limits)
    before = Traces(module)
    try:
        with isolated_rng(generators=[*generators_in(module), *generators_in_data(data)]):
            of_validation = _tried("validation", validated, tester, module, data)
            of_test = _tried("test", tested, tester, module, data)
    finally:
        before.restore()
    if not of_test:
        raise ValueError("the test has no batch, or logs nothing: every state is judged by it")
    check_metric(str(cfg.metric), "test", of_test)
    if trains(cfg):
        for name, monitor in _monitors(cfg, reflow).items():
            check_monitor(name, monitor, of_validation)
    return of_validation


def _tried(
    name: str,
    evaluate: Callable[[pl.Trainer, pl.LightningModule, pl.LightningDataModule], Logged],
    tester: pl.Trainer,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
) -> Logged:
    try:
        return evaluate(tester, module, data)
    except Exception as error:
        raise ValueError(
            f"the {name} fails with its first batch, before anything was trained: {type(error).__name__}: {error} "
            "(rehearse=false does not try it, if it needs a training first)"
        ) from error


def _monitors(cfg: DictConfig, reflow: Reflow) -> dict[str, str]:
    """The names of metrics that the training watches, by where the configuration says so."""
    monitors = {"monitor": str(cfg.monitor)}
    for name, callback in (cfg.callbacks or {}).items():
        if callback and isinstance(callback.get("monitor"), str):
            monitors[f"callbacks.{name}.monitor"] = callback.monitor
    rounds = getattr(reflow.schedule, "rounds", None)
    if rounds is not None and rounds.stop_on_drop is not None:
        monitors["schedule.monitor"] = rounds.monitor
    return monitors
