"""A small training that says what it is doing, so that it can be killed while it does it."""

from __future__ import annotations

import io
import logging
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import torch
from fsspec.implementations.local import LocalFileOpener
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from tqdm import tqdm

from reflow_lightning import Gradual, Reflow

SPARSITY, MIN_KEPT = 0.8, 0.01
BATCHES, BATCH_SIZE = 8, 8
CHECKPOINT_EVERY = 3
PIECES = 10  # in which a checkpoint is written
PAUSE = 0.001  # after each of them, each calibration batch and each scored layer, so that there is time to be killed


class Batches:
    """Random images in an order that the epoch decides.

    It tells Lightning where it is, so that a training goes on in the middle of an epoch, and so at any checkpoint.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCHES * BATCH_SIZE, 1, 6, 6, generator=generator)
        self.labels = (self.images.mean((1, 2, 3)) > 0).long()
        self.epoch = self.position = 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.position == BATCHES:
            self.epoch, self.position = self.epoch + 1, 0
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.epoch))
        for chosen in order.split(BATCH_SIZE)[self.position :]:
            self.position += 1
            yield self.images[chosen], self.labels[chosen]

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there."""
        self.epoch, self.position = state["epoch"], state["position"]


class Classifier(pl.LightningModule):
    """Convolutions with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 2),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """An optimizer and a scheduler that both have a state."""
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.9), "interval": "step"}]


class Voice(pl.Callback):
    """Says what the training is doing, and at which step."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.step = pipe, 0

    def say(self, phase: str) -> None:
        """Tell the parent."""
        self.pipe.send((phase, self.step))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Training goes on."""
        self.step = trainer.global_step
        self.say("training")

    def on_before_zero_grad(self, trainer: pl.Trainer, *_: Any) -> None:
        """Lightning counts the step only when the batch is done."""
        self.step = trainer.global_step + 1

    def score(self, name: str, weight: Tensor) -> Tensor:
        """Magnitude, as the criterion of `Reflow`: the first thing that a prune event does."""
        self.say("pruning")
        time.sleep(PAUSE)
        return weight.abs()

    def reached(self, stage: str, module: nn.Module) -> None:
        """Listener of `Reflow`."""
        self.say({"dense": "pruning", "pruned": "calibrating", "repaired": "training"}[stage])

    def calibration_batches(self) -> Iterator[Tensor]:
        """Slow ones."""
        for images, _ in Batches():
            time.sleep(PAUSE)
            yield images


class SlowIO(TorchCheckpointIO):
    """Lightning's own way to write a checkpoint, in pieces with pauses between."""

    def __init__(self, voice: Voice, folder: Path) -> None:
        self.voice = voice
        tempfile.tempdir = str(folder)  # Lightning writes there, then moves: at one go only within one file system
        LocalFileOpener.write = lambda opened, content: _write_pieces(opened.f, content)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write and say so."""
        self.voice.step = checkpoint["global_step"]
        self.voice.say("writing a checkpoint")
        super().save_checkpoint(checkpoint, path)
        self.voice.say("saved")


class InPlaceIO(SlowIO):
    """Writes over the last checkpoint, as nobody should: shows that kills strike half-way."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write and say so."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        self.voice.say("writing a checkpoint")
        with Path(path).open("wb") as file:
            _write_pieces(file, content.getvalue())
        self.voice.say("saved")


class WithinEpochs(pl.callbacks.ModelCheckpoint):
    """Every few steps, but never after the last batch of an epoch.

    Lightning 2.6 counts one epoch too few once it has been resumed from there, and resumed again it goes wrong.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Write one if it is time."""
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *arguments)


def _write_pieces(file: IO[bytes], content: bytes) -> None:
    size = -(-len(content) // PIECES)
    for start in range(0, len(content), size):
        file.write(content[start : start + size])
        file.flush()
        time.sleep(PAUSE)


def quiet_trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A trainer of one epoch that says nothing and writes nothing."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(callbacks=list(callbacks), accelerator="cpu", **quiet | {"max_epochs": 1} | options)


def train(pipe: Connection, folder: Path, epochs: int, keep_all: bool = False, writer: type[SlowIO] = SlowIO) -> None:
    """Train, from the last checkpoint in the folder if there is one; from the beginning otherwise.

    Args:
        pipe: Where to report.
        folder: Where checkpoints are, ``last.ckpt``.
        epochs: Length of the whole training.
        keep_all: Keep every checkpoint, as ``step=<n>.ckpt``, instead of the last alone.
        writer: How checkpoints are written.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tqdm.set_lock(threading.RLock())  # its own is one of all processes, which those that are killed leave behind
    last = folder / "last.ckpt"
    voice = Voice(pipe)
    reflow = Reflow(
        SPARSITY,
        schedule=Gradual(begin=0.0, end=1.0, every_n_steps=2, curve="linear"),
        criterion=voice.score,
        min_kept=MIN_KEPT,
        calibration_data=voice.calibration_batches,
        calibration_batches=BATCHES,
    )
    reflow.listeners.append(voice.reached)
    checkpoints = WithinEpochs(
        folder,
        filename="{step}" if keep_all else "last",
        save_top_k=-1 if keep_all else 1,
        save_on_train_epoch_end=False,
        every_n_train_steps=CHECKPOINT_EVERY,
        enable_version_counter=False,
    )
    trainer = quiet_trainer(
        voice, reflow, checkpoints, max_epochs=epochs, plugins=[writer(voice, folder)], enable_checkpointing=True
    )
    trainer.fit(Classifier(), Batches(), ckpt_path=str(last) if last.exists() else None)
    trainer.save_checkpoint(folder / (f"step={trainer.global_step}.ckpt" if keep_all else "last.ckpt"))
    voice.say("done")
