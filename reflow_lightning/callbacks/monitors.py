"""The monitors of a training: which there are, and what the callback that prunes tells them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from reflow_lightning.callbacks.logs import log_event
from reflow_lightning.callbacks.monitor import SignalMonitor
from reflow_lightning.callbacks.trainer import callbacks_of
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.signal.metrics import VARIANCE


def monitor_for(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    wanted: bool | SignalMonitor,
    forward: AnyForward | None,
    before: dict[str, Any] | None = None,
) -> SignalMonitor | None:
    """The monitor that a callback has in a training that starts, as its user wants it.

    Args:
        trainer: The trainer.
        module: What it trains.
        wanted: ``True``: one of the variance alone, unless another callback of the trainer does its work.
        forward: The forward pass of a default one.
        before: The state of its history in the checkpoint from which the training goes on.
    """
    if wanted is True and not monitors_of(trainer, None):
        wanted = SignalMonitor(metrics=VARIANCE, forward=forward)
    if isinstance(wanted, bool):
        return None
    if before is not None:
        wanted.history.load_state_dict(before)
    wanted.on_train_start(trainer, module)
    return wanted


def monitors_of(trainer: pl.Trainer, own: SignalMonitor | None) -> list[SignalMonitor]:
    """All monitors of a training: those among its callbacks, and that of the callback that prunes."""
    return [each for each in (*callbacks_of(trainer), own) if isinstance(each, SignalMonitor)]


def show_event(trainer: pl.Trainer, event: PruneEvent, own: SignalMonitor | None) -> None:
    """Log a prune event, and have it in the heat maps of all monitors, the first of which chooses the curves.

    Args:
        trainer: The running trainer.
        event: The event.
        own: The monitor of the callback that prunes.
    """
    monitors = monitors_of(trainer, own)
    log_event(trainer, event, *(monitor.curves for monitor in monitors[:1]))
    for monitor in monitors:
        monitor.pruned(trainer, event.step, event.signal)


def show_end(trainer: pl.Trainer, own: SignalMonitor | None) -> None:
    """End a fit with the heat map of the monitor of the callback that prunes."""
    if own is not None:
        own.show(trainer)
