"""Whether somebody looks at the gradients of a step: only then are those of pruned weights set to zero."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import optim

from reflow_lightning.running.compat.hooks import has_step_hooks

_BY_ELEMENT = frozenset(
    {
        optim.Adadelta,
        optim.Adagrad,
        optim.Adam,
        optim.Adamax,
        optim.AdamW,
        optim.ASGD,
        optim.NAdam,
        optim.RAdam,
        optim.RMSprop,
        optim.Rprop,
        optim.SGD,
    }
)
"""What these do to a weight depends on no other weight's gradient."""

_IN_A_STEP = (
    "configure_gradient_clipping",
    "on_before_optimizer_step",
    "optimizer_step",
    "lr_scheduler_step",
    "on_before_zero_grad",
    "optimizer_zero_grad",
    "on_train_batch_start",
    "on_train_batch_end",
)
"""In these hooks the gradients of a step can be looked at, until those of the next one take their place."""


def are_looked_at(trainer: pl.Trainer, module: pl.LightningModule, optimizer: optim.Optimizer) -> bool:
    """Whether the gradients of pruned weights in a step may be seen by anybody, or change what becomes of the others.

    They are clipped, or a hook of the module or of a callback can read them, or the training is about to leave the
    epoch, whose end has many hooks; or the optimizer looks at more than one weight at a time, or is not known. Under a
    scaler of losses they tell whether the step is taken at all.

    Args:
        trainer: The trainer.
        module: What it trains.
        optimizer: What is about to step.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return bool(
        not module.automatic_optimization
        or trainer.gradient_clip_val
        or trainer.is_last_batch
        or getattr(trainer.precision_plugin, "scaler", None) is not None
        or type(optimizer) not in _BY_ELEMENT
        or has_step_hooks(optimizer)
        or _has_own(module, pl.LightningModule)
        or any(_has_own(callback, pl.Callback) for callback in callbacks if not _is_known(callback))
    )


def _is_known(callback: pl.Callback) -> bool:
    """Whether a callback comes with Lightning or with this package: none of them reads a gradient."""
    return type(callback).__module__.partition(".")[0] in ("lightning", "reflow_lightning")


def _has_own(given: Any, base: type) -> bool:
    """Whether a module or callback has a hook of its own that runs in a step."""
    return any(
        name in vars(given) or getattr(type(given), name, None) is not getattr(base, name, None) for name in _IN_A_STEP
    )
