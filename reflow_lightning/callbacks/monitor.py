"""SignalMonitor: curves of the signal in any Lightning training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import lightning.pytorch as pl

from reflow_lightning.callbacks.logs import log_metrics, logger_step
from reflow_lightning.callbacks.trainer import callbacks_of, forward_in_precision
from reflow_lightning.layers import Order
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.names import Patterns, as_patterns
from reflow_lightning.running.processes import gather
from reflow_lightning.signal.measure import learn_order, measure_signal
from reflow_lightning.signal.report import LayerSignal

_WITH_REFERENCE = {"variance_ratio", "channel_ratio", "cosine", "cka"}
_OF_LAYERS = [f.name for f in fields(LayerSignal) if f.name not in {"name", "channels"} | _WITH_REFERENCE]
_OF_RECTIFIERS = {"rectifier_entropy": "entropy", "rectifier_saturated": "saturated"}  # fields of LayerEntropy


class SignalMonitor(pl.Callback):
    """Log ``variance/<layer>`` and other curves of each layer's output in eval mode, as the training goes on.

    Every ``every_n_steps`` steps it runs the network once more on the batch just trained on, in eval mode, since that
    is where collapse shows: in train mode BatchNorm hides it. Parameters, BatchNorm's statistics, modes and random
    state are left alone, so that the training is the same with and without it.

    Args:
        every_n_steps: Optimizer steps between two measurements; the first comes after the first step.
        metrics: Fields of `LayerSignal` that need no reference; each is logged as ``<metric>/<layer>``. They cost the
            same however many are logged. ``class_share`` takes batches with labels, and is of one batch here: compare
            it over time rather than with 0. ``rectifier_entropy`` and ``rectifier_saturated`` are fields of
            `LayerEntropy`, logged for every weighted layer whose output enters a rectifier, whatever ``layers`` says.
        layers: Glob patterns on module names. Default: BatchNorm layers, and weighted layers that none follows.
        forward: ``(module, batch) -> anything`` for batches that the default does not understand.

    Example:
        >>> trainer = pl.Trainer(callbacks=[SignalMonitor(every_n_steps=100)], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        *,
        metrics: Sequence[str] = (
            "variance",
            "dead",
            "saturated",
            "entropy",
            "class_share",
            "rectifier_entropy",
            "rectifier_saturated",
        ),
        layers: Patterns | None = None,
        forward: Forward | None = None,
    ) -> None:
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps!r} must be a whole number of at least 1")
        if isinstance(metrics, str) or not metrics or not set(metrics) <= {*_OF_LAYERS, *_OF_RECTIFIERS}:
            known = ", ".join((*_OF_LAYERS, *_OF_RECTIFIERS))
            raise ValueError(f"metrics={metrics!r} must be a list of some of {known}")
        self.every_n_steps = every_n_steps
        self.metrics = tuple(metrics)
        self.layers = None if layers is None else as_patterns(layers)
        self.forward = forward
        self._last: int | None = None
        self._order: Order | None = None
        self._logged = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with a measurement."""
        self._last = self._order = None
        self._logged = any(gather(bool(trainer.loggers)))  # measuring takes all processes, though one may log alone

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure and log, if it is time."""
        step = trainer.global_step - 1  # the first step is 0; it repeats while gradients accumulate
        due = self._last is None or step // self.every_n_steps > self._last // self.every_n_steps
        if not self._logged or step < 0 or not due:
            return
        self._last = step
        forward = forward_in_precision(trainer, self.forward)
        if self._order is None and self.layers is None:
            self._order = learn_order(pl_module, [batch], forward=forward)
        report = measure_signal(
            pl_module,
            [batch],
            max_batches=1,
            forward=forward,
            layers=self.layers,
            order=self._order,
            progress=False,
        )
        metrics = {
            f"{metric}/{row.name}": value
            for row in report.rows
            for metric in self.metrics
            if (value := getattr(row, metric, None)) is not None
        }
        metrics |= {
            f"{metric}/{row.layer}": getattr(row, field)
            for row in report.rectifiers
            for metric, field in _OF_RECTIFIERS.items()
            if metric in self.metrics
        }
        log_metrics(trainer, metrics, logger_step(trainer))


def monitor_for(trainer: pl.Trainer, wanted: bool | SignalMonitor, forward: Forward | None) -> SignalMonitor | None:
    """The monitor that a callback has in a training, as its user wants it.

    Args:
        trainer: The trainer.
        wanted: ``True``: a default one, unless another callback of the trainer does its work.
        forward: The forward pass of a default one.
    """
    if not isinstance(wanted, bool):
        return wanted
    others = any(isinstance(callback, SignalMonitor) for callback in callbacks_of(trainer))
    return SignalMonitor(forward=forward) if wanted and not others else None
