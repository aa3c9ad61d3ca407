"""What other callbacks take for the best of a training: it may be the network from before the pruning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch

from reflow_lightning.callbacks.trainer import callbacks_of
from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.running.processes import warn


class BestBefore:
    """Remembers what was best when a network was pruned, and tells at the end if it still is.

    Args:
        is_forgotten: Have callbacks forget what was best before the pruning, so that they choose among pruned networks.
    """

    def __init__(self, is_forgotten: bool) -> None:
        self.is_forgotten = is_forgotten
        self._paths: set[str] = set()

    def pruned(self, trainer: pl.Trainer) -> None:
        """The network was just pruned."""
        self._paths = {callback.best_model_path for callback in _checkpoints(trainer) if callback.best_model_path}
        if self.is_forgotten:
            self._paths = set()
            for callback in _checkpoints(trainer):
                _forget_checkpoints(callback)
            for callback in callbacks_of(trainer):
                if is_one(callback, "EarlyStopping"):
                    _forget_score(callback)

    def training_ends(self, trainer: pl.Trainer) -> None:
        """Warn if what a callback calls the best checkpoint is of the network from before the pruning."""
        for callback in _checkpoints(trainer):
            if callback.best_model_path in self._paths:
                warn(
                    f"the best checkpoint by {callback.monitor!r} is from before the pruning, "
                    f"{callback.best_model_path}: load the last one, or choose among pruned networks with "
                    "Reflow(forget_best=True)"
                )


def _checkpoints(trainer: pl.Trainer) -> Iterator[Any]:
    """The callbacks that keep the best checkpoint by a metric."""
    return (c for c in callbacks_of(trainer) if is_one(c, "ModelCheckpoint") and getattr(c, "monitor", None))


def _forget_checkpoints(callback: Any) -> None:
    """Have a ModelCheckpoint choose anew; the files stay."""
    callback.best_k_models = {}
    callback.kth_best_model_path = callback.best_model_path = ""
    callback.best_model_score = callback.current_score = None
    callback.kth_value = torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)


def _forget_score(callback: Any) -> None:
    """Have an EarlyStopping wait anew."""
    callback.wait_count = 0
    callback.best_score = torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)
