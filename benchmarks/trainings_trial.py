"""One training of the zoo with and without the callback, judged."""

from __future__ import annotations

import hashlib
import importlib
import random
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from zoo.trainings import Training

SEED = 0
SPARSITY = 0.7
EVENT = 1
"""The epoch before which the network is pruned."""


def seed(number: int) -> None:
    """Seed all that a training may draw from."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


class Recorder(pl.Callback):
    """Notes, after all other callbacks, what a training is like after each batch.

    Attributes:
        digests: A hash of all parameters, buffers and torch's random state, by batch.
        seconds: From the end of a batch to the end of the next, within an epoch.
    """

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An epoch begins, whose first batch is not timed."""
        self._last = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """A batch is over."""
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self.digests.append(digest(pl_module))
        self._last = time.perf_counter()


class Zeros(pl.Callback):
    """Counts pruned weights that are not zero, whenever a user could see them.

    Args:
        reflow: The callback that prunes.
    """

    def __init__(self, reflow: Any) -> None:
        self.reflow = reflow
        self.alive = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """A batch is over."""
        self.alive += alive(pl_module, self.reflow.masks)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation begins."""
        self.alive += alive(pl_module, self.reflow.masks)


class Seeds(pl.Callback):
    """Seeds anew before each batch, since a checkpoint does not hold the random state."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch begins."""
        seed(1000 * trainer.current_epoch + batch_idx)


class Saves(Checkpoint):
    """Saves a checkpoint after each epoch and all other hooks, also where Lightning counts no steps.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An epoch is over."""
        trainer.save_checkpoint(self.folder / f"epoch={trainer.current_epoch}.ckpt")


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Attributes:
        lost: What was lost, in a few words each; an error is a loss.
        sparsity: Of what was selected.
        repaired: Number of layers that the repair changed.
        left: Why it left others alone, by name.
        warned: What only the training with the callback warned of.
        plain: Median seconds a batch without the callback.
        ours: With it, before the network is pruned.
    """

    lost: tuple[str, ...]
    sparsity: float = 0.0
    repaired: int = 0
    left: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    plain: float = float("nan")
    ours: float = float("nan")


def attempt(training: Training, folder: Path, repeats: int = 1) -> Outcome:
    """Train with and without the callback.

    Args:
        training: Of the zoo.
        folder: Where checkpoints go.
        repeats: How often both are trained, in turn, to be timed.
    """
    try:
        return _attempt(training, folder, repeats)
    except Exception as error:
        return Outcome((f"{type(error).__name__}: {error}".split("\n")[0],))


def _attempt(training: Training, folder: Path, repeats: int) -> Outcome:
    with told() as told_plain:
        plain = Recorder()
        fit(training, [plain], epochs=EVENT + 1)
    with told() as told_ours:
        reflow, ours = reflow_for(training), Recorder()
        fit(training, [reflow, zeros := Zeros(reflow), ours], epochs=EVENT + 1)
    lost = []
    before = len(plain.digests) // (EVENT + 1)
    if differing := [i for i in range(before) if plain.digests[i] != ours.digests[i]]:
        lost.append(f"bits differ from batch {differing[0]} on")
    if len(reflow.events) != 1:
        lost.append(f"{len(reflow.events)} events")
    if zeros.alive:
        lost.append(f"{zeros.alive} pruned weights were not zero")
    lost += _resumed(training, folder)
    seconds: dict[bool, list[float]] = {True: plain.seconds[: before - 1], False: ours.seconds[: before - 1]}
    for turn in range(2 * (repeats - 1)):
        recorder = Recorder()
        fit(training, [*([] if turn % 2 else [reflow_for(training)]), recorder], epochs=EVENT + 1)
        seconds[bool(turn % 2)] += recorder.seconds[: before - 1]
    event = reflow.events[-1]
    return Outcome(
        tuple(lost),
        event.sparsity,
        len(event.calibration.repaired),
        tuple(sorted(set(event.calibration.skipped.values()))),
        tuple(sorted(told_ours - told_plain)),
        statistics.median(seconds[True]),
        statistics.median(seconds[False]),
    )


def _resumed(training: Training, folder: Path) -> list[str]:
    """What is lost by going on from the checkpoint after the event, and by loading that without the package."""
    reflow = reflow_for(training)
    whole, _ = fit(training, [Seeds(), reflow], epochs=EVENT + 2, folder=folder)
    saved = folder / f"epoch={EVENT}.ckpt"
    lost = [text] if (text := load_plainly(training, saved)) else []
    again, _ = fit(training, [Seeds(), reflow_for(training)], epochs=EVENT + 2, ckpt_path=saved)
    if values(again) != values(whole) and _resumes(training, folder / "plain"):
        lost.append("a resumed training ends with other bits")
    return lost


def _resumes(training: Training, folder: Path) -> bool:
    """Whether the training without the callback goes on from a checkpoint to the same bits."""
    whole, _ = fit(training, [Seeds()], epochs=EVENT + 2, folder=folder)
    again, _ = fit(training, [Seeds()], epochs=EVENT + 2, ckpt_path=folder / f"epoch={EVENT}.ckpt")
    return values(again) == values(whole)


def load_plainly(training: Training, saved: Path) -> str:
    """Load a checkpoint as a user without the package would; returns what fails."""
    try:
        checkpoint = torch.load(saved, weights_only=True)
        seed(SEED)
        training.module().load_state_dict(checkpoint["state_dict"])
    except Exception as error:
        return f"the checkpoint can't be loaded: {type(error).__name__}: {error}".split("\n")[0]
    return ""


def reflow_for(training: Training) -> Any:
    """The callback as a user gives it: all defaults, but few batches, and what the training needs."""
    from reflow_lightning import OneShot, Reflow  # not above, for a process without the package

    return Reflow(SPARSITY, schedule=OneShot(epoch=EVENT), calibration_batches=4, **training.reflow)


def fit(
    training: Training,
    callbacks: Sequence[pl.Callback],
    epochs: int,
    folder: Path | None = None,
    ckpt_path: Path | None = None,
) -> tuple[pl.LightningModule, pl.Trainer]:
    """Train it, always from the same random state."""
    package = importlib.import_module(training.lightning)
    seed(SEED)
    module = training.module()
    data = training.data()
    options = dict(training.trainer)
    own = [make() for make in options.pop("callbacks", ())]
    if folder is not None:
        callbacks = [*callbacks, Saves(folder)]
    trainer = package.Trainer(
        **{
            "max_epochs": epochs,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": folder is not None,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [*own, *callbacks],
            **options,
        }
    )
    seed(SEED)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module, trainer


def alive(module: torch.nn.Module, masks: Any) -> int:
    """How many pruned weights are not zero."""
    if masks is None:
        return 0
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return sum(int((tensors[name].detach()[~mask.to(tensors[name].device)] != 0).sum()) for name, mask in masks.items())


def digest(module: torch.nn.Module) -> str:
    """A hash of the parameters and buffers, and of torch's random state."""
    return values(module) + hashlib.blake2b(torch.get_rng_state().numpy().tobytes()).hexdigest()


def values(module: torch.nn.Module) -> str:
    """A hash of the parameters and buffers."""
    found = hashlib.blake2b()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not torch.nn.parameter.is_lazy(tensor):
            found.update(name.encode())
            plain = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
            found.update(plain.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@contextmanager
def told() -> Iterator[set[str]]:
    """What is warned of in the block."""
    messages: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages.update(str(warning.message) for warning in caught)
