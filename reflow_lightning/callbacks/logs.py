"""What is written to a trainer's loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from reflow_lightning.events.record import PruneEvent
from reflow_lightning.running.compat.lightning import is_one, logged_step

_PROFILED = {
    "variance": "variance",
    "cka": "CKA with the dense network",
    "class_share": "between-class share",
    "entropy": "entropy",
    "saturated": "saturated channels",
}
"""Fields of `LayerSignal` that are logged against depth, and what their charts are called."""


def logger_step(trainer: pl.Trainer) -> int:
    """The step that Lightning itself logs with, so that all curves share their x-axis."""
    return logged_step(trainer)


def overlay(trainer: pl.Trainer, charts: Mapping[str, Sequence[str]]) -> None:
    """Have TensorBoard draw several curves in each chart, under *custom scalars*; other loggers have no such thing."""
    layout = {chart: ["Multiline", [f"^{tag}$" for tag in tags]] for chart, tags in charts.items()}
    for logger in trainer.loggers:
        if is_one(logger, "TensorBoardLogger") and trainer.is_global_zero:
            logger.experiment.add_custom_scalars({"reflow": layout})


def log_metrics(trainer: pl.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Log to every logger, with the group separator that it prefers."""
    for logger in trainer.loggers:
        logger.log_metrics({k.replace("/", logger.group_separator, 1): v for k, v in metrics.items()}, step=step)


def log_event(trainer: pl.Trainer, event: PruneEvent, is_last: bool) -> None:
    """Log the sparsity of every layer, and the signal against depth; all but the last profile are marked ``@step``."""
    metrics = {"sparsity/global": event.sparsity, "sparsity/all_matrices": event.coverage.share}
    metrics |= {f"sparsity/{name.removesuffix('.weight')}": s for name, s in event.sparsities.items()}
    trainer.callback_metrics["sparsity/global"] = torch.tensor(event.sparsity)  # for other callbacks to monitor
    log_metrics(trainer, metrics, logger_step(trainer))
    suffix = "" if is_last else f"@{event.step}"
    for stage, report in event.signal.items():
        for depth, row in enumerate(report.rows, start=1):
            found = {metric: getattr(row, metric) for metric in _PROFILED}
            profile = {
                f"{metric}_profile/{stage}{suffix}": value for metric, value in found.items() if value is not None
            }
            log_metrics(trainer, profile, depth)
        for depth, rectifier in enumerate(report.rectifiers, start=1):
            log_metrics(trainer, {f"rectifier_entropy_profile/{stage}{suffix}": rectifier.entropy}, depth)
    if is_last and event.signal:
        charts = {f"{name} against depth": f"{metric}_profile" for metric, name in _PROFILED.items()}
        charts["entropy of rectifiers against depth"] = "rectifier_entropy_profile"
        overlay(trainer, {chart: [f"{tag}/{stage}" for stage in event.signal] for chart, tag in charts.items()})


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
