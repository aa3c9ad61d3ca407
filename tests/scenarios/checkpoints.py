"""Trainings whose parameters are spread over processes, saved by some number of processes and resumed by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from reflow_lightning import Gradual, Reflow
from scenarios.processes import named, whole
from scenarios.trainings import Spread, fit, model_parallel, resharded, seeded


class SaveAt(pl.Callback):
    """Saves a checkpoint, and what must be found again in it."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path, weights_only=False)
            [reflow] = [callback for callback in trainer.callbacks if isinstance(callback, Reflow)]
            self.masks, self.state = reflow.state_dict()["masks"], resharded(pl_module)


SLOW = Gradual(every_n_steps=2, end=1.0)


def sharded_checkpoint(folder: Path) -> dict[str, Any]:
    """Gradual pruning, with a checkpoint in the middle; two kinds of it."""
    found = {}
    for name, options in (("parts", {}), ("one_file", {"save_distributed_checkpoint": False})):
        module, callback = seeded(Spread), Reflow(0.6, schedule=SLOW, monitor=False)
        path = folder.parent / f"{name}_{dist.get_world_size()}"
        save = SaveAt(path, epoch=2)
        fit(callback, module, model_parallel(**options), save, max_epochs=5)
        found[name] = {"masks": save.masks, "state": save.state, "steps": [event.step for event in callback.events]}
    return found


class Start(pl.Callback):
    """Keeps the weights with which a training begins."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.state = resharded(pl_module)
        self.moments = [whole(s["momentum_buffer"]) for s in trainer.optimizers[0].state.values()]


def resumed(folder: Path) -> dict[str, Any]:
    """Goes on from the checkpoints that another number of processes wrote."""
    found = {}
    for path in sorted(folder.parent.glob("parts_*")) + sorted(folder.parent.glob("one_file_*")):
        strategy = model_parallel(**{} if path.is_dir() else {"save_distributed_checkpoint": False})
        torch.manual_seed(7)  # other first weights
        module, callback, start = Spread(), Reflow(0.6, schedule=SLOW, monitor=False), Start()
        fit(callback, module, strategy, start, max_epochs=5, ckpt_path=str(path), weights_only=True)
        found[path.name] = {
            "start": start.state,
            "moments": start.moments,
            "masks": callback.state_dict()["masks"],
            "end": resharded(module),
            "steps": [event.step for event in callback.events],
        }
    return found


SAVED = named(sharded_checkpoint)
RESUMED = named(resumed)
