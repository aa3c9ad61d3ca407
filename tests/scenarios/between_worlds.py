"""Checkpoints that one world writes and another reads: several processes, and one that has all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from helpers import loader, trainer

from reflow_lightning import Gradual, Reflow
from reflow_lightning.callbacks import FullyShard
from scenarios.checkpoints import SaveAt
from scenarios.fully_sharded import Normed
from scenarios.processes import named, whole
from scenarios.trainings import data, fit, resharded

EPOCHS, HALF = 4, 1
KINDS = {"folder": {}, "file": {"save_distributed_checkpoint": False}}


def moments(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, torch.Tensor]:
    """The averages of squared gradients, by the parameter."""
    states = trainer.optimizers[0].state
    return {name: whole(states[p]["exp_avg_sq"]) for name, p in module.named_parameters()}


class Save(SaveAt):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch == self.epoch:
            self.moments = moments(trainer, pl_module)


class Kept(pl.Callback):
    """Keeps what a training begins with: weights, moments and masks."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.state, self.moments = resharded(pl_module), moments(trainer, pl_module)
        [reflow] = [callback for callback in trainer.callbacks if isinstance(callback, Reflow)]
        self.masks = reflow.state_dict()["masks"]


def reflow() -> Reflow:
    return Reflow(0.6, schedule=Gradual(every_n_steps=2, end=1.0), repair="reconstruct", monitor=False)


def module(seed: int = 0) -> Normed:
    torch.manual_seed(seed)
    return Normed()


def saved(folder: Path) -> dict[str, Any]:
    """A training that is not interrupted, with a checkpoint at its middle."""
    found = {}
    for kind, options in KINDS.items():
        callback, network = reflow(), module()
        save = Save(folder / f"{kind}_of_{dist.get_world_size()}", HALF)
        fit(callback, network, FullyShard(**options), save, max_epochs=EPOCHS)
        found[kind] = {"masks": save.masks, "state": save.state, "moments": save.moments, "end": resharded(network)}
    return found


def resumed(folder: Path, path: Path) -> dict[str, Any]:
    callback, network, start = reflow(), module(seed=7), Kept()
    strategy = FullyShard(save_distributed_checkpoint=path.is_dir())
    fit(callback, network, strategy, start, max_epochs=EPOCHS, ckpt_path=str(path), weights_only=True)
    return {"masks": start.masks, "state": start.state, "end": resharded(network)}


def resumed_by_the_same_number(folder: Path) -> dict[str, Any]:
    return {kind: resumed(folder, folder / f"{kind}_of_{dist.get_world_size()}") for kind in KINDS}


def resumed_from_one_process(folder: Path) -> dict[str, Any]:
    return resumed(folder, folder / "alone.ckpt")


def alone(folder: Path) -> dict[str, Any]:
    """What one process trains and saves."""
    callback, network, save = reflow(), module(), Save(folder / "alone.ckpt", HALF)
    trainer(callback, save, max_epochs=EPOCHS).fit(network, data(), loader(16, shuffle=False))
    return {"masks": save.masks, "state": save.state}


def resumed_alone(path: Path) -> dict[str, Any]:
    """What one process goes on with."""
    callback, network, start = reflow(), module(seed=7), Kept()
    runner = trainer(callback, start, max_epochs=EPOCHS)
    runner.fit(network, data(), loader(16, shuffle=False), ckpt_path=str(path), weights_only=True)
    found = {"masks": start.masks, "state": start.state, "moments": start.moments}
    return found | {"end": resharded(network), "last": callback.masks}


SCENARIOS = named(saved, resumed_by_the_same_number, resumed_from_one_process)
