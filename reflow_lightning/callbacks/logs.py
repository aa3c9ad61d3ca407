"""What is written to a trainer's loggers."""

from __future__ import annotations

from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from reflow_lightning.callbacks.profiles import log_profile
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.running.compat.lightning import logged_step


def logger_step(trainer: pl.Trainer) -> int:
    """The step that Lightning itself logs with, so that all curves share their x-axis."""
    return logged_step(trainer)


def log_metrics(trainer: pl.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Log to every logger, with the group separator that it prefers."""
    for logger in trainer.loggers:
        logger.log_metrics({k.replace("/", logger.group_separator, 1): v for k, v in metrics.items()}, step=step)


def log_event(trainer: pl.Trainer, event: PruneEvent) -> None:
    """Log the sparsity of every layer, and the signal against depth: see `log_profile`."""
    metrics = {"sparsity/global": event.sparsity, "sparsity/all_matrices": event.coverage.share}
    if event.coverage.tables:
        metrics["sparsity/with_embeddings"] = event.coverage.share_with_tables
    metrics |= {f"sparsity/{name.removesuffix('.weight')}": s for name, s in event.sparsities.items()}
    trainer.callback_metrics["sparsity/global"] = torch.tensor(event.sparsity)  # for other callbacks to monitor
    log_metrics(trainer, metrics, logger_step(trainer))
    if trainer.is_global_zero:
        log_profile(trainer.loggers, event, logger_step(trainer))


def announce(event: PruneEvent, what: str = "Reflow") -> None:
    """Say in one line, on rank zero, what was done, and what was left where not all was selected."""
    words = event.coverage.words
    chosen = f"; the best in its time: {event.recipe}" if event.recipe else ""
    left = f" of the selected weights = {words};" if words else ""
    rank_zero_info(
        f"{what} at step {event.step}: sparsity {event.sparsity:.4f}{left} over {len(event.sparsities)} tensors "
        f"({event.seconds['prune']:.2f} s), repaired {len(event.calibration.repaired)} layers with "
        f"{event.calibration.batches} batches ({event.seconds['repair']:.2f} s); the training paused for "
        f"{event.seconds['total']:.2f} s{chosen}"
    )
