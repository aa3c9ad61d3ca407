"""What is written to a trainer's loggers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from reflow_lightning.callbacks.curves import FEW, with_curves
from reflow_lightning.callbacks.profiles import log_profile
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.running.compat.lightning import is_one, logged_step


def log_metrics(trainer: pl.Trainer, metrics: Mapping[str, float], step: int, hidden: Collection[str] = ()) -> None:
    """Log to every logger, with the group separator that it prefers.

    Args:
        trainer: The running trainer.
        metrics: Numbers by group and name.
        step: What the loggers count as its step.
        hidden: Names of numbers that have no chart, and only go into files.
    """
    for logger in trainer.loggers:
        shown = metrics if is_one(logger, "CSVLogger") else {k: v for k, v in metrics.items() if k not in hidden}
        if shown:
            logger.log_metrics({k.replace("/", logger.group_separator, 1): v for k, v in shown.items()}, step=step)


def of_layers(
    metric: str, values: Mapping[str, float], curves: int | tuple[str, ...]
) -> tuple[dict[str, float], set[str]]:
    """A metric of several layers by the name under which it is logged, and the names of those without a curve.

    Args:
        metric: Its name.
        values: Its values by layer, from input to output.
        curves: Which layers have a curve: see `with_curves`.

    Example:
        >>> of_layers("variance", {"conv1": 1.0, "fc": 2.0}, 1)
        ({'variance/conv1': 1.0, 'variance/fc': 2.0}, {'variance/conv1'})
    """
    shown = set(with_curves(list(values), curves))
    return {f"{metric}/{k}": v for k, v in values.items()}, {f"{metric}/{k}" for k in values if k not in shown}


def log_event(
    trainer: pl.Trainer, event: PruneEvent, curves: int | tuple[str, ...] = FEW, with_pictures: bool = True
) -> None:
    """Log the sparsity of the network and of some layers, and the signal against depth: see `log_profile`.

    Args:
        trainer: The running trainer.
        event: The prune event.
        curves: Which layers have a curve of their sparsity: see `with_curves`.
        with_pictures: Draw the pictures of the signal.
    """
    metrics = {"sparsity/global": event.sparsity, "sparsity/all_matrices": event.coverage.share}
    if event.coverage.tables:
        metrics["sparsity/with_embeddings"] = event.coverage.share_with_tables
    layers, hidden = of_layers(
        "sparsity", {name.removesuffix(".weight"): share for name, share in event.sparsities.items()}, curves
    )
    trainer.callback_metrics["sparsity/global"] = torch.tensor(event.sparsity)  # for other callbacks to monitor
    log_metrics(trainer, metrics | layers, logged_step(trainer), hidden)
    if trainer.is_global_zero:
        log_profile(trainer.loggers, event, logged_step(trainer), curves, with_pictures)


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
