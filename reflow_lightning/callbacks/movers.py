"""Who may have moved pruned weights of a training outside of an optimizer's step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import lightning.pytorch as pl

from reflow_lightning.callbacks.trainer import callbacks_of
from reflow_lightning.running.names import few

IN_BATCH = (
    *("on_train_batch_start", "training_step", "on_before_backward", "on_after_backward", "on_before_zero_grad"),
    *("on_before_optimizer_step", "configure_gradient_clipping", "optimizer_step", "optimizer_zero_grad"),
)
"""Hooks of a module, or a callback, that run between the start of a batch and its end."""

AFTER_BATCH = (
    *("on_train_batch_end", "on_train_epoch_end", "on_train_epoch_start"),
    *("on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end", "on_validation_end"),
)
"""Hooks that run between two batches."""

_BASES = {"LightningModule", "Callback", "ModelHooks", "DataHooks", "CheckpointHooks"}


def hooks_of(trainer: pl.Trainer, hooks: Sequence[str]) -> list[str]:
    """Which of some hooks the module and the callbacks of a trainer have themselves, such as ``"Byol.training_step"``.

    Args:
        trainer: The running trainer.
        hooks: Names of hooks.
    """
    others = [c for c in callbacks_of(trainer) if not _is_ours(type(c))]
    return [found for of in (trainer.lightning_module, *others) for hook in hooks for found in _own(type(of), hook)]


def moved_message(trainer: pl.Trainer, names: Sequence[str], hooks: Sequence[str]) -> str:
    """What to say when pruned weights of some names were moved, in one of some hooks."""
    found = hooks_of(trainer, hooks)
    told = [hook for hook in found if not hook.endswith((".training_step", ".on_train_batch_start"))] or found
    who = f"perhaps in {', '.join(told[:4])}" if told else "it can't be told by whom"
    return (
        f"pruned weights of {few(map(repr, names), what='tensors')} were moved outside of an optimizer's step, {who}: "
        "they are set to zero again before each batch, validation and checkpoint; a network that follows another one "
        "gets its masks by tied={'follower.*': 'followed.*'}"
    )


def _own(kind: type, hook: str) -> Iterable[str]:
    owner = next((base for base in kind.__mro__ if hook in vars(base)), None)
    return [] if owner is None or owner.__name__ in _BASES else [f"{owner.__name__}.{hook}"]


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "reflow_lightning"
