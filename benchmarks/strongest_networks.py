"""The published networks of `strongest.py`, with what is pruned of them and the data that they were trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tables import data_folder
from torch import Tensor, nn

from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.data.cifar10 import CIFAR10DataModule
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.experiments.models.resnet18 import BasicBlock

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class ResNet20(nn.Module):
    """ResNet-20 with 1x1 convolutions on its shortcuts, as the tables of WoodFisher, CBS and CHITA have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        sizes = (("layer1", 16, 16, 1), ("layer2", 16, 32, 2), ("layer3", 32, 64, 2))
        for name, before, after, stride in sizes:
            blocks = BasicBlock(before, after, stride), BasicBlock(after, after), BasicBlock(after, after)
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for name in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        name: As the tables call it.
        load: Makes the dense network, given its data.
        data: The data as it was trained on them.
        exclude: Weights that the papers leave dense.
    """

    name: str
    load: Callable[[CIFAR10DataModule], nn.Module]
    data: CIFAR10DataModule
    exclude: tuple[str, ...] = ()


def published() -> list[Published]:
    """The networks whose weights lie in REFLOW_DATA."""
    folder = data_folder()
    chita = CIFAR10DataModule(folder, verify=False)
    akamaster = CIFAR10DataModule(folder, verify=False, **IMAGENET)  # type: ignore[arg-type]
    return [
        Published("ResNet-20 of CHITA", _chita, chita, ("*downsample*",)),
        Published("ResNet-20", lambda _: _loaded(ResNet(3), "resnet20-12fca82f.th"), akamaster),
        Published("ResNet-32", lambda _: _loaded(ResNet(5), "resnet32-d509ac18.th"), akamaster),
    ]


def _loaded(model: nn.Module, file: str) -> nn.Module:
    load_weights(model, data_folder() / "weights" / file)
    return model.eval()


@torch.no_grad()
def _chita(data: CIFAR10DataModule) -> nn.Module:
    """As its authors do, with BatchNorm statistics read anew, by running averages over augmented training images."""
    model = _loaded(ResNet20(), "chita_resnet20_cifar10.pth.tar").train()
    torch.manual_seed(0)
    for images, _ in data.train_dataloader():
        model(images)
    return model.eval()
