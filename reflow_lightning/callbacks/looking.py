"""Whether somebody looks at the gradients of a step: only then are the gradients of pruned weights set to zero."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import optim

from reflow_lightning.callbacks.trainer import callbacks_of
from reflow_lightning.running.compat.hooks import has_step_hooks
from reflow_lightning.running.compat.lightning import is_lightning

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
"""In these hooks the gradients of a step can be looked at, until the next step's take their place."""


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
    return bool(
        not module.automatic_optimization
        or trainer.gradient_clip_val
        or trainer.is_last_batch
        or getattr(trainer.precision_plugin, "scaler", None) is not None
        or type(optimizer) not in _BY_ELEMENT
        or has_step_hooks(optimizer)
        or any(map(_has_own, (module, *callbacks_of(trainer))))
    )


def _has_own(given: object) -> bool:
    """Whether a module or callback has a hook that runs in a step and comes neither with Lightning nor from here."""
    hooks = (vars(given).get(name, getattr(type(given), name, None)) for name in _IN_A_STEP)
    return any(hook is not None and not (is_lightning(hook) or _is_ours(hook)) for hook in hooks)


def _is_ours(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("reflow_lightning.")
