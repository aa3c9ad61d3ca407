"""The monitors of a training: which there are, and what the callback that prunes tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from reflow_lightning.callbacks.curves import FEW
from reflow_lightning.callbacks.logs import log_event
from reflow_lightning.callbacks.monitor import SignalMonitor
from reflow_lightning.callbacks.pictures import has_pictures
from reflow_lightning.callbacks.state import KeepsState
from reflow_lightning.callbacks.trainer import callbacks_of
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.signal.metrics import VARIANCE


def monitor_for(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    wanted: bool | SignalMonitor,
    forward: AnyForward | None,
    before: Mapping[str, Any] | None = None,
) -> SignalMonitor | None:
    """The monitor that a callback has in a training that starts, as its user wants it.

    One of the variance alone is made for the first callback that prunes, unless the trainer has a monitor.

    Args:
        trainer: The trainer.
        module: What it trains.
        wanted: A monitor; ``True`` for one of the variance alone; ``False`` for none.
        forward: The forward pass of a default one.
        before: The state of its history, where the training goes on from a checkpoint or from an earlier fit.
    """
    if wanted is True and not monitors_of(trainer):
        wanted = SignalMonitor(metrics=VARIANCE, forward=forward)
    if isinstance(wanted, bool):
        return None
    if before is not None:
        wanted.history.load_state_dict(before)
    wanted.on_train_start(trainer, module)
    return wanted


def monitors_of(trainer: pl.Trainer) -> list[SignalMonitor]:
    """All monitors of a training: those among its callbacks, and those that callbacks which prune have."""
    found = (each.own_monitor if isinstance(each, KeepsState) else each for each in callbacks_of(trainer))
    return list(dict.fromkeys(each for each in found if isinstance(each, SignalMonitor)))


def show_event(trainer: pl.Trainer, event: PruneEvent, number: int = 1, is_last: bool = True) -> None:
    """Log a prune event, and have it in the heat maps of all monitors, the first of which chooses the curves.

    Args:
        trainer: The running trainer.
        event: The event.
        number: Of the event in this training, from 1: of many, some have pictures.
        is_last: No event is to come.
    """
    monitors, with_pictures = monitors_of(trainer), has_pictures(number, is_last)
    log_event(trainer, event, monitors[0].curves if monitors else FEW, with_pictures)
    for monitor in monitors:
        monitor.history.add_event(event.step, event.signal)
        if with_pictures:
            monitor.show(trainer)


def show_end(trainer: pl.Trainer, own: SignalMonitor | None) -> None:
    """End a fit with the heat map of the monitor of the callback that prunes."""
    if own is not None:
        own.show(trainer)
