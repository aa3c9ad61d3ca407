"""What the callbacks ask of Lightning's Trainer: how far it is, its precision, its mode."""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
from torch import nn

from reflow_lightning.callbacks.silence import silent
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.attention_mask import Around
from reflow_lightning.running.forward import Forward
from reflow_lightning.schedules import Length, Progress


def progress_of(trainer: pl.Trainer, steps_done: int, batches_done: int, epoch_done: bool = False) -> Progress:
    """How far the training is.

    Args:
        trainer: The running trainer.
        steps_done: Optimizer steps done.
        batches_done: Batches done in this epoch.
        epoch_done: Whether they are all of it; their number may be unknown.
    """
    shares = []
    if trainer.max_steps != -1:
        shares.append(steps_done / max(1, trainer.max_steps))
    if trainer.max_epochs not in (None, -1):
        done = 1.0 if epoch_done else batches_done / trainer.num_training_batches  # 0 where that number is infinite
        shares.append((trainer.current_epoch + done) / max(1, trainer.max_epochs))
    return Progress(steps_done, trainer.current_epoch, max(shares) if shares else None)


def length_of(trainer: pl.Trainer) -> Length:
    """How long the training will be, as far as the trainer knows."""
    epochs = None if trainer.max_epochs in (None, -1) else trainer.max_epochs
    known = epochs is not None or trainer.max_steps != -1
    if not trainer.lightning_module.automatic_optimization:  # it may step as often a batch as it likes
        return Length(None if trainer.max_steps == -1 else trainer.max_steps, epochs, known)
    steps = trainer.estimated_stepping_batches if known else -1
    return Length(int(steps) if 0 <= steps < float("inf") else None, epochs, known)


def forward_in_precision(trainer: pl.Trainer, forward: AnyForward | None) -> Forward:
    """The forward pass under the trainer's precision, for passes beside the training: nothing is logged or stepped."""
    run = as_forward(forward)

    def forward_in_context(model: nn.Module, batch: Any) -> Any:
        with silent(trainer, model), trainer.precision_plugin.forward_context():
            return run(model, batch)

    return Around(run, forward_in_context)


def is_trial(trainer: pl.Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which tries the code and trains nothing."""
    return bool(getattr(trainer, "fast_dev_run", False))


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """The trainer's callbacks."""
    return cast("list[pl.Callback]", getattr(trainer, "callbacks", []))


def is_barebones(trainer: pl.Trainer) -> bool:
    """Whether the trainer measures raw speed and wants nothing beside the training."""
    return bool(getattr(trainer, "barebones", False))
