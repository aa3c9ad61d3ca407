"""CIFAR-10 in memory, and a training that one CPU core gets through in minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tables import data_folder
from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.experiments.data.cifar10 import CIFAR10DataModule
from reflow_lightning.pruning import Masks

PADDING = 4
WEIGHT_DECAY = 5e-4

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Images:
    """Normalised images (N, 3, 32, 32) and their classes (N,)."""

    inputs: Tensor
    classes: Tensor

    def batches(self, size: int = 500) -> list[Batch]:
        """All of them, in order and as they are."""
        inputs = [part.to(memory_format=torch.channels_last) for part in self.inputs.split(size)]
        return list(zip(inputs, self.classes.split(size), strict=True))


@dataclass(frozen=True)
class Augmented:
    """Batches in a new order each pass; every image is padded, cropped at random, and half of them are mirrored."""

    images: Images
    size: int = 128

    def __len__(self) -> int:
        return len(self.images.inputs) // self.size

    def __iter__(self) -> Iterator[Batch]:
        padded = functional.pad(self.images.inputs, (PADDING,) * 4)
        chosen = torch.randperm(len(padded))[: len(self) * self.size]
        for indices in chosen.split(self.size):
            corners = torch.randint(2 * PADDING + 1, (self.size, 2)).tolist()
            crops = [padded[i, :, y : y + 32, x : x + 32] for i, (y, x) in zip(indices, corners, strict=True)]
            inputs = torch.stack(crops).to(memory_format=torch.channels_last)
            mirrored = torch.rand(self.size, 1, 1, 1) < 0.5
            yield torch.where(mirrored, inputs.flip(3), inputs), self.images.classes[indices]


def load() -> dict[str, Images]:
    """The splits ``train``, ``val`` and ``test``."""
    data = CIFAR10DataModule(data_folder(), verify=False, download=False)
    data.setup()
    return {name: _in_memory(data.splits[name], data) for name in ("train", "val", "test")}


def _in_memory(split: Any, data: CIFAR10DataModule) -> Images:
    indices = torch.tensor(split.indices)
    pixels = torch.from_numpy(split.dataset.data)[indices].permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    return Images((pixels / 255 - mean) / std, torch.tensor(split.dataset.targets)[indices])


def train(model: nn.Module, batches: Augmented, epochs: int, rate: float, masks: Masks | None = None) -> None:
    """Train with SGD in bfloat16, one cycle of the learning rate; what the masks prune stays zero."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, epochs=epochs, steps_per_epoch=len(batches), pct_start=0.2
    )
    model.train()
    for _ in range(epochs):
        for inputs, classes in batches:
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            if masks is not None:
                masks.apply(model)
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Share of the images whose class has the largest logit."""
    hits = torch.cat([model(inputs).argmax(1) == classes for inputs, classes in images.batches()])
    return float(hits.double().mean())
