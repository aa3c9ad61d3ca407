"""The monitors of a training: which there are, and what the callback that prunes tells them."""

from __future__ import annotations

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
    reflow: KeepsState,
    forward: AnyForward | None,
) -> SignalMonitor | None:
    """The monitor that a callback has in a training that starts, as its user wants it.

    One of the variance alone is made for the first callback that prunes, unless a user has made any.

    Args:
        trainer: The trainer.
        module: What it trains.
        reflow: The callback.
        forward: The forward pass of a default one.
    """
    monitor = reflow.own_monitor
    if reflow.monitor is True:
        if not _makes_one(trainer, reflow):
            return None
        monitor = monitor or SignalMonitor(metrics=VARIANCE, forward=forward)
    if monitor is not None:
        if (before := reflow.history_before()) is not None:
            monitor.load_state_dict(before)
        monitor.on_train_start(trainer, module)
    return monitor


def _makes_one(trainer: pl.Trainer, reflow: KeepsState) -> bool:
    """Whether a callback is the first that prunes and wants a default monitor, where no user has made one."""
    pruning: list[KeepsState] = [each for each in callbacks_of(trainer) if isinstance(each, KeepsState)]
    of_users = (*callbacks_of(trainer), *(each.monitor for each in pruning))
    makers = [each for each in pruning if each.monitor is True]
    return not any(isinstance(each, SignalMonitor) for each in of_users) and makers[:1] in ([reflow], [])


def monitors_of(trainer: pl.Trainer) -> list[SignalMonitor]:
    """All monitors of a training: those among its callbacks, and those that callbacks which prune have."""
    found = (each.own_monitor if isinstance(each, KeepsState) else each for each in callbacks_of(trainer))
    return list(dict.fromkeys(each for each in found if isinstance(each, SignalMonitor)))


def show_event(trainer: pl.Trainer, event: PruneEvent, is_last: bool = True) -> None:
    """Log a prune event, and add it to the heat maps of all monitors; the first monitor chooses the curves.

    Args:
        trainer: The running trainer.
        event: The event.
        is_last: No event of the callback is to come: of many, the last and some others have pictures.
    """
    monitors = monitors_of(trainer)
    for monitor in monitors:
        monitor.history.add_event(event.step, event.signal)
    with_pictures = has_pictures(max((monitor.history.events for monitor in monitors), default=1), is_last)
    log_event(trainer, event, monitors[0].curves if monitors else FEW, with_pictures)
    for monitor in monitors if with_pictures else ():
        monitor.show(trainer)


def show_end(trainer: pl.Trainer, own: SignalMonitor | None) -> None:
    """End a fit with the heat map of the monitor of the callback that prunes."""
    if own is not None:
        own.show(trainer)
