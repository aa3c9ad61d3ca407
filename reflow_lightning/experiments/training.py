"""The trainings of a run: the dense one before, if there is one, and the one in which the network is pruned."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import nn

from reflow_lightning.callbacks import Reflow
from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.event_records import EventRecords
from reflow_lightning.experiments.loggers import end_wandb, log_settings, make_loggers
from reflow_lightning.experiments.resume import Resume, Saved, process_number
from reflow_lightning.experiments.sharing import SharedDense, dense_key, shared_checkpoint, shared_file
from reflow_lightning.experiments.spreading import SharedBuffers, copy_state
from reflow_lightning.experiments.stages import BestWeights, Stages
from reflow_lightning.running.files import read_tensors, write_tensors, write_whole
from reflow_lightning.running.generators import RandomState
from reflow_lightning.running.processes import gather
from reflow_lightning.schedules import Iterative

PRETRAIN, FIT = "pretrain", "fit"
"""The phases of a run that train, as its folders of checkpoints are called."""


def trains(cfg: DictConfig) -> bool:
    """Whether the network is trained here, beside a dense training of its own."""
    return bool(cfg.train) and int(cfg.trainer.max_epochs) != 0


def make_trainer(cfg: DictConfig, callbacks: Sequence[pl.Callback] = (), **options: Any) -> pl.Trainer:
    """The trainer of the configuration, with a progress bar only where somebody can see it."""
    shown = bool(cfg.trainer.enable_progress_bar) and sys.stderr.isatty()
    kept = [callback for callback in callbacks if shown or not isinstance(callback, ProgressBar)]
    trainer: pl.Trainer = instantiate(cfg.trainer, callbacks=kept, **options, enable_progress_bar=shown)
    return trainer


def _saving_trainer(cfg: DictConfig, callbacks: Sequence[pl.Callback], **options: Any) -> pl.Trainer:
    """A trainer with a callback that saves: Lightning adds none of its own then, and must not forbid ours."""
    return make_trainer(cfg, [SharedBuffers(), *callbacks], enable_checkpointing=True, **options)


def load_or_pretrain(
    cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, folder: Path, resume: Resume
) -> None:
    """Give the network its first weights, if it does not start from random ones."""
    net: nn.Module = getattr(module, "net", module)
    if cfg.ckpt is not None:
        load_weights(net, cfg.ckpt)
    elif cfg.get("weights") is not None:
        return  # loaded by the model itself
    elif cfg.pretrain is not None:
        if resume.checkpoint(FIT) is None and shared_checkpoint(cfg) is None:  # else that holds all that came of it
            load_weights(net, _pretrain(cfg, data, folder, resume))
    elif not trains(cfg):
        raise ValueError(
            "train=false needs a network that is trained: pass ckpt=PATH, or weights=DEFAULT with torchvision"
        )


def _pretrain(cfg: DictConfig, data: Any, folder: Path, resume: Resume) -> Path:
    """Train a dense network with a recipe of its own; its best weights are kept in ``dense.ckpt``."""
    path, shared = folder / "dense.ckpt", shared_file(cfg, PRETRAIN)
    if shared is not None and shared.exists() and not path.exists():
        shutil.copy(shared, path)
    if (cfg.resume or shared) and path.exists() and _goes_on_from(path, cfg):
        return path
    recipe = cfg.pretrain
    pl.seed_everything(int(cfg.seed), workers=True, verbose=False)  # the same, whether something was made before or not
    optimizer, scheduler = instantiate(recipe.optimizer), instantiate(recipe.scheduler)
    smoothing = recipe.get("label_smoothing", cfg.label_smoothing)
    module: pl.LightningModule = instantiate(
        cfg.module, optimizer=optimizer, scheduler=scheduler, label_smoothing=smoothing
    )
    best = BestWeights(cfg.monitor, cfg.mode)
    saved = resume.checkpoint(PRETRAIN)
    logger = make_loggers(cfg, folder, PRETRAIN, saved)
    callbacks = [best, resume.callback(PRETRAIN)]
    trainer = _saving_trainer(cfg, callbacks, logger=logger, max_epochs=int(recipe.total_epochs))
    batch_size = data.batch_size
    data.batch_size = recipe.get("batch_size") or batch_size
    trainer.fit(module, datamodule=data, ckpt_path=saved and saved.path)
    data.batch_size = batch_size
    end_wandb()
    random = gather(RandomState().to_dict())
    content = {"state_dict": best.state or copy_state(module), "of": dense_key(cfg), "random": random}
    if trainer.is_global_zero:
        write_tensors(path, content)
        if shared is not None:
            shared.parent.mkdir(parents=True, exist_ok=True)
            write_whole(shared, path.read_bytes())
    trainer.strategy.barrier()
    return path


def _goes_on_from(path: Path, cfg: DictConfig) -> bool:
    """Whether the dense training of such a run is over, and if so, leave the random state that it left."""
    content = read_tensors(path)
    if content.get("of") != dense_key(cfg):
        return False
    states = content["random"]
    RandomState.from_dict(states[process_number() % len(states)]).restore()
    return True


def fit(
    cfg: DictConfig,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: Path,
    resume: Resume,
    callbacks: Sequence[pl.Callback] = (),
    last: Sequence[Checkpoint] = (),
    saved: Saved | None = None,
) -> pl.Trainer:
    """Train, from a checkpoint if there is one to go on from.

    Args:
        cfg: The configuration, whose callbacks come after those that are given.
        module: What is trained.
        data: What it is trained on.
        folder: Where the curves go.
        resume: Says from where, and saves.
        callbacks: What the training does beside.
        last: More callbacks that save; they run after the one of ``resume``.
        saved: What to start from if there is no checkpoint to go on from.
    """
    saved = resume.checkpoint(FIT) or saved
    logger = make_loggers(cfg, folder, saved=saved)
    log_settings(logger, cfg)
    own = [callback for callback in instantiate(cfg.callbacks or {}).values() if callback]
    trainer = _saving_trainer(cfg, [*callbacks, *own, resume.callback(FIT), *last], logger=logger)
    trainer.fit(module, datamodule=data, ckpt_path=saved and saved.path)
    return trainer


def fit_and_prune(
    cfg: DictConfig,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    reflow: Reflow,
    stages: Stages,
    folder: Path,
    resume: Resume,
) -> tuple[list[dict[str, Any]], list[Logger]]:
    """The training in which the network is pruned.

    Returns:
        Its prune events, see `EventRecords`, and its loggers.

    Raises:
        RuntimeError: If it ended before anything was pruned.
    """
    best = BestWeights(cfg.monitor, cfg.mode, ready=lambda: reflow.completed)
    records = EventRecords(reflow)
    path = shared_file(cfg, "dense")
    in_rounds = isinstance(reflow.schedule, Iterative)  # whose judge knows the dense network, too
    shares = [] if path is None or in_rounds else [SharedDense(reflow, path)]
    trainer = fit(cfg, module, data, folder, resume, [reflow, best, stages, records], shares, shared_checkpoint(cfg))
    events = records.events()
    if not events:
        raise RuntimeError(
            f"training ended at step {trainer.global_step} before schedule={reflow.schedule} pruned: if a callback may "
            "stop it, prune earlier, as schedule=one_shot schedule.fraction=null schedule.epoch=5 does"
        )
    if reflow.returned is not None:
        stages.keep("final", copy_state(module), reflow.returned.step or 0)
    elif trainer.global_step != stages.steps["repaired"]:
        stages.keep("final", best.state or copy_state(module), best.step or trainer.global_step)
    return events, list(trainer.loggers)
