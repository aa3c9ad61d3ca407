"""A batch of the validation and of the test before anything is trained: a mistake costs seconds, not days."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig

from reflow_lightning.callbacks import Reflow
from reflow_lightning.experiments.training import make_trainer, trains
from reflow_lightning.running.isolation import isolated_rng


def rehearse(cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, reflow: Reflow) -> list[str]:
    """Validate and test a batch, and check that what the configuration asks for is logged there.

    The random state is left as it was.

    Args:
        cfg: The configuration.
        module: What will be trained and tested.
        data: What it will be tested on.
        reflow: Its schedule may watch a metric, too.

    Returns:
        The names of what the validation logs.

    Raises:
        ValueError: If a step fails, there is nothing to test, or ``metric`` or a monitor is not logged.
    """
    limits: dict[str, Any] = {
        f"limit_{split}_batches": 0 if cfg.trainer.get(f"limit_{split}_batches") == 0 else 1 for split in _SPLITS
    }
    # Without inference mode: what a network caches on its way must be fit for training.
    tester = make_trainer(cfg, logger=False, inference_mode=False, profiler=None, **limits)
    with isolated_rng():
        validated = _logged(tester, tester.validate, "validation", module, data)
        tested = _logged(tester, tester.test, "test", module, data)
    if not tested:
        raise ValueError("the test has no batch, or logs nothing: every state is judged by it")
    check_metric(str(cfg.metric), "test", tested)
    if validated and trains(cfg):
        for name, monitor in _monitors(cfg, reflow).items():
            check_monitor(name, monitor, validated)
    return validated


def check_metric(metric: str, split: str, logged: Collection[str]) -> None:
    """Check that a metric is among what a split logs.

    Args:
        metric: Its name without that of the split.
        split: ``"val"`` or ``"test"``.
        logged: The names of what was logged.

    Raises:
        ValueError: If it is not.

    Example:
        >>> check_metric("f1", "test", ["test/loss", "test/accuracy"])
        Traceback (most recent call last):
        ValueError: metric=f1 is not among what the test logs: loss, accuracy
    """
    if f"{split}/{metric}" not in logged:
        known = ", ".join(name.removeprefix(f"{split}/") for name in logged) or "nothing"
        raise ValueError(f"metric={metric} is not among what the {_SPLITS[split]} logs: {known}")


def check_monitor(name: str, monitor: str, logged: Collection[str]) -> None:
    """Check that a monitor is among what the validation logs, unless it is of the training, as its name says.

    Example:
        >>> check_monitor("monitor", "val/acc", ["val/loss", "val/accuracy"])
        Traceback (most recent call last):
        ValueError: monitor=val/acc is not among what the validation logs: val/loss, val/accuracy
    """
    if monitor not in logged and not monitor.startswith("train"):
        raise ValueError(f"{name}={monitor} is not among what the validation logs: {', '.join(logged)}")


_SPLITS = {"val": "validation", "test": "test"}


def _logged(
    tester: pl.Trainer,
    evaluate: Callable[..., Any],
    name: str,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
) -> list[str]:
    """The names of what a batch logs."""
    try:
        results: list[Mapping[str, float]] = evaluate(module, datamodule=data, verbose=False)
    except Exception as error:
        raise ValueError(
            f"the {name} fails with its first batch, before anything was trained: {type(error).__name__}: {error}"
        ) from error
    return list(dict.fromkeys([*(key for result in results for key in result), *tester.callback_metrics]))


def _monitors(cfg: DictConfig, reflow: Reflow) -> dict[str, str]:
    """The names of metrics that the training watches, by where the configuration says so."""
    monitors = {"monitor": str(cfg.monitor)}
    for name, callback in (cfg.callbacks or {}).items():
        if callback and callback.get("monitor"):
            monitors[f"callbacks.{name}.monitor"] = str(callback.monitor)
    rounds = getattr(reflow.schedule, "rounds", None)
    if rounds is not None and rounds.stop_on_drop is not None:
        monitors["schedule.monitor"] = rounds.monitor
    return monitors
