"""SignalMonitor: variance curves of any Lightning training."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from reflow_lightning import bridge, logs
from reflow_lightning.names import Patterns, as_patterns
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.processes import gather
from reflow_lightning.signal.measure import measure_signal


class SignalMonitor(pl.Callback):
    """Log ``variance/<layer>``: the variance of each layer's output in eval mode, as the training goes on.

    Every ``every_n_steps`` steps it runs the network once more on the batch just trained on, in eval mode, since that
    is where collapse shows: in train mode BatchNorm hides it. Parameters, BatchNorm's statistics, modes and random
    state are left alone, so that the training is the same with and without it.

    Args:
        every_n_steps: Optimizer steps between two measurements; the first comes after the first step.
        layers: Glob patterns on module names. Default: BatchNorm layers, and weighted layers that none follows.
        forward: ``(module, batch) -> anything`` for batches that the default does not understand.

    Example:
        >>> trainer = pl.Trainer(callbacks=[SignalMonitor(every_n_steps=100)], logger=False, accelerator="cpu")
    """

    def __init__(
        self, every_n_steps: int = 50, *, layers: Patterns | None = None, forward: Forward | None = None
    ) -> None:
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps!r} must be a whole number of at least 1")
        self.every_n_steps = every_n_steps
        self.layers = None if layers is None else as_patterns(layers)
        self.forward = forward
        self._last: int | None = None
        self._logged = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with a measurement."""
        self._last = None
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
        forward = bridge.forward_in_precision(trainer, self.forward)
        with torch.no_grad():
            report = measure_signal(
                pl_module, [batch], max_batches=1, forward=forward, layers=self.layers, progress=False
            )
        metrics = {f"variance/{name}": variance for name, variance in report.variances().items()}
        logs.log_metrics(trainer, metrics, logs.logger_step(trainer))
