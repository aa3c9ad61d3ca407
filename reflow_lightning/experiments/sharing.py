"""One dense training for all jobs of a sweep that differ only in what comes after it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig, OmegaConf

from reflow_lightning.callbacks import Reflow
from reflow_lightning.callbacks.trainer import progress_of
from reflow_lightning.experiments.resume import Saved, newest_of, settings
from reflow_lightning.running.files import read_tensors, write_tensors
from reflow_lightning.running.processes import warn
from reflow_lightning.schedules import Progress

_AFTER = (  # settings without a meaning before the first pruning
    *("sparsity", "criterion", "allocation", "pattern", "min_kept", "steps", "include", "exclude", "repair", "budget"),
    *("reflow", "collapse", "paper", "published", "max_drop", "tolerance", "calibration_batch_size"),
)


_ONLY_SHOW = ("LearningRateMonitor", "RichProgressBar", "TQDMProgressBar", "ModelSummary", "RichModelSummary")


def dense_key(cfg: DictConfig) -> str:
    """A short name of all settings that matter before the first pruning: jobs of one name have one dense network."""
    before = {key: value for key, value in settings(cfg).items() if key.split(".")[0] not in _AFTER}
    before |= {f"callbacks.{name}": text for name, text in _active_callbacks(cfg).items()}
    before.pop("data.calibration_batch_size", None)
    if cfg.ckpt is not None and (file := Path(cfg.ckpt)).is_file():
        before["ckpt"] = [str(file), file.stat().st_size, file.stat().st_mtime_ns]  # what it was trained from
    return hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:16]


def _active_callbacks(cfg: DictConfig) -> dict[str, str]:
    """The callbacks of a configuration that may change a training, with their arguments."""
    return {
        str(name): str(OmegaConf.to_container(node, resolve=True))
        for name, node in (cfg.callbacks or {}).items()
        if node and str(node.get("_target_")).rpartition(".")[2] not in _ONLY_SHOW
    }


def shared_file(cfg: DictConfig, what: str) -> Path | None:
    """Where the jobs of a sweep share something; ``None`` outside a sweep, or if they shall not."""
    return Path(cfg.share) / f"{what}-{dense_key(cfg)}.ckpt" if cfg.share else None


def shared_checkpoint(cfg: DictConfig) -> Saved | None:
    """The checkpoint just before the first pruning that another job has left, if it is there and whole."""
    path = shared_file(cfg, "dense")
    return newest_of(path) if path is not None and path.exists() else None


class SharedDense(Checkpoint):
    """Saves the training at the last moment before its first pruning, without what says how that will be done.

    Args:
        reflow: Does the pruning.
        path: The file; what is there already stays.
    """

    def __init__(self, reflow: Reflow, path: Path) -> None:
        self.reflow, self.path, self._step = reflow, path, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a step, when no gradients are gathered yet, if it prunes after the next one."""
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if stepped and not trainer.is_last_batch:
            done = batch_idx + 1 + trainer.accumulate_grad_batches
            is_over = done >= trainer.num_training_batches
            self._save_before(trainer, progress_of(trainer, trainer.global_step + 1, done, is_over))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, if the next epoch begins with it, or the first step of that ends with it."""
        now = progress_of(trainer, trainer.global_step + 1, 0, epoch_done=True)
        self._save_before(trainer, replace(now, epoch=now.epoch + 1))

    def _save_before(self, trainer: pl.Trainer, following: Progress) -> None:
        if self.reflow.masks is not None or self.path.exists() or not self.reflow.is_due(following):
            return
        name = trainer.strategy.broadcast(f"{self.path.name}.{uuid4().hex[:12]}")  # other jobs may save it as well
        beside = self.path.with_name(name)
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(beside, weights_only=False)
            if trainer.is_global_zero:
                content = read_tensors(beside)
                callbacks = content["callbacks"].items()
                content["callbacks"] = {key: state for key, state in callbacks if not key.startswith(Reflow.__name__)}
                write_tensors(self.path, content)
        except (OSError, RuntimeError, ValueError) as error:  # torch hides a full disk behind a RuntimeError
            if trainer.world_size > 1:
                raise
            warn(f"{self.path} could not be written, so that other jobs train what they could share: {error}")
        finally:
            if trainer.is_global_zero:
                with suppress(OSError):
                    beside.unlink()
