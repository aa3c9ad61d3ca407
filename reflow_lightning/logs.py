"""What is written to a trainer's loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from reflow_lightning.event import PruneEvent


def logger_step(trainer: pl.Trainer) -> int:
    """The step that Lightning itself logs with, so that all curves share their x-axis."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def overlay(trainer: pl.Trainer, chart: str, tags: Sequence[str]) -> None:
    """Have TensorBoard draw several curves in one chart, under *custom scalars*; other loggers have no such thing."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_custom_scalars({"reflow": {chart: ["Multiline", [f"^{tag}$" for tag in tags]]}})


def log_metrics(trainer: pl.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Log to every logger, with the group separator that it prefers."""
    for logger in trainer.loggers:
        logger.log_metrics({k.replace("/", logger.group_separator, 1): v for k, v in metrics.items()}, step=step)


def log_event(trainer: pl.Trainer, event: PruneEvent, is_last: bool) -> None:
    """Log the sparsity of every layer, and the signal against depth; all but the last profile are marked ``@step``."""
    metrics = {"sparsity/global": event.sparsity}
    metrics |= {f"sparsity/{name.removesuffix('.weight')}": s for name, s in event.sparsities.items()}
    trainer.callback_metrics["sparsity/global"] = torch.tensor(event.sparsity)  # for other callbacks to monitor
    log_metrics(trainer, metrics, logger_step(trainer))
    suffix = "" if is_last else f"@{event.step}"
    for stage, report in event.signal.items():
        for depth, row in enumerate(report.rows, start=1):
            log_metrics(trainer, {f"variance_profile/{stage}{suffix}": row.variance}, depth)
    if is_last and event.signal:
        overlay(trainer, "variance against depth", [f"variance_profile/{stage}" for stage in event.signal])
