"""The two callbacks that are compared, and the tiny training that both are put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelPruning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reflow_lightning import Gradual, OneShot, Reflow

STEPS = 4  # of an epoch


class Net(pl.LightningModule):
    """Classifies images of 6 x 6 pixels with 192 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
        self.trained = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Cross-entropy."""
        self.trained += 1
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the zeros that a validation sees."""
        self.log("zeros", float(zeros(self)))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the zeros that a test sees."""
        self.log("test_zeros", float(zeros(self)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, which moves a weight on though it has no gradient."""
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Attention(Net):
    """The same with attention over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        rows = images.squeeze(1)
        return self.net(self.attention(rows, rows, rows, need_weights=False)[0])


def batches(size: int = 16) -> DataLoader[Any]:
    """64 random images, always in the same order."""
    images = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), size)


def trainer(*callbacks: pl.Callback, epochs: int = 2, **options: Any) -> pl.Trainer:
    """A trainer that says nothing."""
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    keeps = any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks)
    return pl.Trainer(
        **quiet
        | {"max_epochs": epochs, "callbacks": list(callbacks), "enable_checkpointing": keeps, "log_every_n_steps": 1}
        | options
    )


def weights(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The weights of convolution, linear and attention layers."""
    layers = [(m, "weight") for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return layers + [(m, "in_proj_weight") for m in module.modules() if isinstance(m, nn.MultiheadAttention)]


def zeros(module: nn.Module) -> int:
    """Zeros among them."""
    return sum(int((getattr(m, name) == 0).sum()) for m, name in weights(module))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a callback is to do: prune a share of the weights after an epoch.

    Attributes:
        share: How much.
        epoch: After which epoch, counted from 0.
        parts: In so many equal parts instead, one after each epoch from the first.
        selection: What `Side.selection` gave; ``()`` stands for the callback's default.
        random: Whether the weights are drawn, instead of the smallest.
        permanent: Whether checkpoints hold the weights without masks, where there is a choice.
        rewind: Whether the weights left are set back to the first ones, where there is a choice.
    """

    share: float = 0.5
    epoch: int = 0
    parts: int = 1
    selection: Sequence[Any] | None = None
    random: bool = False
    permanent: bool = True
    rewind: bool = False


@dataclass(frozen=True)
class Side:
    """One of the callbacks: how it is told its task, and how it is told one layer."""

    name: str
    make: Callable[[pl.LightningModule, Task], pl.Callback]
    selection: Callable[[pl.LightningModule, str], Sequence[Any]]

    def callback(self, module: pl.LightningModule, **task: Any) -> pl.Callback:
        """The callback for a task."""
        return self.make(module, Task(**task))


def model_pruning(module: pl.LightningModule, task: Task) -> pl.Callback:
    """`ModelPruning` with a global ranking by magnitude, every weight named, and no rewinding unless asked for."""
    return ModelPruning(
        "random_unstructured" if task.random else "l1_unstructured",
        parameters_to_prune=weights(module) if task.selection is None else task.selection,
        use_global_unstructured=True,
        amount=task.share / task.parts,
        apply_pruning=lambda epoch: epoch == task.epoch if task.parts == 1 else epoch < task.parts,
        make_pruning_permanent=task.permanent,
        use_lottery_ticket_hypothesis=task.rewind,
        verbose=1,
    )


def reflow(module: pl.LightningModule, task: Task) -> pl.Callback:
    """`Reflow`, whose checkpoints always hold masks, and which has no rewinding."""
    once = OneShot(step=STEPS * (task.epoch + 1))
    in_parts = Gradual(begin=0.0, end=1.0, every_n_steps=STEPS, curve="linear")
    return Reflow(
        task.share,
        schedule=once if task.parts == 1 else in_parts,
        criterion="random" if task.random else "magnitude",
        include=task.selection or "*",
        repair="batchnorm",  # for undo() the last event keeps what it changed: with "auto" the classifier's weights too
        calibration_batches=2,
    )


THEIRS = Side("ModelPruning", model_pruning, lambda module, layer: [(module.get_submodule(layer), "weight")])
OURS = Side("Reflow", reflow, lambda module, layer: [f"{layer}.weight"])
SIDES = {side.name: side for side in (THEIRS, OURS)}
