"""Small things that many tests need: images, a training, a Trainer, counts of zeros. Networks are in `zoo`."""

from __future__ import annotations

import io
import random
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from zoo.convolutional import small_net


def images(n: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def zeros(model: nn.Module) -> int:
    """Zeros among the prunable weights, counted the plain way."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return sum(int((m.weight == 0).sum()) for m in model.modules() if isinstance(m, kinds))


def selected_size(model: nn.Module) -> int:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, kinds))


class Module(pl.LightningModule):
    """Classifies the sign pattern of random images; logs the zeros that a validation sees."""

    def __init__(self, optimizer: str = "sgd", manual: bool = False) -> None:
        super().__init__()
        self.net = small_net()
        self.optimizer = optimizer
        self.automatic_optimization = not manual
        self.validated_zeros: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        if self.automatic_optimization:
            return loss
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            nn.functional.cross_entropy(self(batch[0]), batch[1]).backward()
            optimizer.step()
        return None

    def validation_step(self, batch, batch_idx):
        self(batch[0])
        self.log("zeros", float(zeros(self)))
        self.validated_zeros.append(zeros(self))

    def test_step(self, batch, batch_idx):
        self.log("test_zeros", float(zeros(self)))

    def configure_optimizers(self):
        if self.optimizer == "several":
            half = len(self.net) // 2
            return [
                torch.optim.SGD(self.net[:half].parameters(), 0.1, momentum=0.9),
                torch.optim.AdamW(self.net[half:].parameters(), 0.01),
            ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(self.parameters(), 0.01, weight_decay=0.1)
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)


def loader(n: int = 64, batch_size: int = 16, shuffle: bool = True, **options) -> DataLoader:
    x = images(n)
    return DataLoader(TensorDataset(x, (x.mean((1, 2, 3)) > 0).long()), batch_size, shuffle=shuffle, **options)


def trainer(*callbacks: pl.Callback, **options) -> pl.Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 2}
    if not options.get("barebones"):
        quiet |= {"enable_progress_bar": False, "enable_model_summary": False}
    else:
        quiet = {"accelerator": "cpu", "max_epochs": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(callbacks=list(callbacks), **quiet | options)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a prune event may leave a trace in, so that it compares bit for bit, NaN included."""
    modules = list(model.modules())
    return {
        "values": {name: value.detach().cpu().numpy().tobytes() for name, value in model.state_dict().items()},
        "training": [module.training for module in modules],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        "attributes": [sorted(vars(module)) for module in modules],
        "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
    }


class Terminal(io.StringIO):
    """A text that passes for a terminal, in which bars are shown."""

    def isatty(self):
        return True
