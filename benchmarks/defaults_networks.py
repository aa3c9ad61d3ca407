"""The networks of ``defaults.py``: small and large, with and without norms, trained for a moment or fully."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import timm
import torch
from hydra.utils import instantiate
from sklearn.datasets import load_digits
from tables import configuration, data_folder
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader

from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.data.har2 import HAR2DataModule
from reflow_lightning.experiments.models.gru import GRUClassifier
from reflow_lightning.experiments.models.mobilenet import MobileNetV1
from reflow_lightning.experiments.models.signal_cnn import SignalCNN
from reflow_lightning.experiments.models.vit import VisionTransformer

BATCH, TEST_IMAGES, TRAINING_IMAGES = 100, 1000, 10_000


class Data(NamedTuple):
    """Samples that are trained and calibrated on, and samples for tests."""

    inputs: Tensor
    classes: Tensor
    test_inputs: Tensor
    test_classes: Tensor


@cache
def digits() -> Data:
    """1,500 of scikit-learn's digits, at 28x28 pixels as the templates take them; tested on the other 297."""
    found = load_digits()
    images = interpolate(torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, size=28).flatten(1)
    classes = torch.tensor(found.target)
    return Data(images[:1500], classes[:1500], images[1500:], classes[1500:])


@cache
def har() -> Data:
    """The six activities of UCI HAR, split by subject; every fourth step."""
    module = HAR2DataModule(data_folder(), task="activities")
    module.setup()
    train, test = (next(iter(DataLoader(module.splits[split], 8000))) for split in ("train", "test"))
    return Data(train[0][:, ::4], train[1], test[0][:, ::4], test[1])


@cache
def cifar() -> Data:
    """10,000 images of CIFAR-10 under the training transform, drawn once; tested on the first 1,000 of the test set."""
    module = instantiate(configuration("experiment=cifar10_resnet20", "data.verify=false").data)
    module.setup("fit")
    torch.manual_seed(0)
    train = next(iter(DataLoader(module.splits["train"], TRAINING_IMAGES, shuffle=True)))
    return Data(*train, *next(iter(DataLoader(module.splits["test"], TEST_IMAGES))))


@dataclass(frozen=True)
class Network:
    """A network, and how it is trained.

    Attributes:
        name: In the table.
        make: Makes it.
        data: What it is trained and tested on.
        steps: Steps of Adam with batches of ``BATCH``; 0: it comes trained.
        lr: The highest learning rate, which falls to zero along a half cosine.
        seeds: It is trained from each of them.
    """

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[], Data]
    steps: int
    lr: float = 1e-3
    seeds: tuple[int, ...] = (0, 1, 2)

    def trained(self, seed: int) -> nn.Module:
        """The dense network."""
        torch.manual_seed(seed)
        net, data = self.make(), self.data()
        if self.steps:
            optimizer = torch.optim.Adam(net.parameters(), self.lr)
            rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            for _ in range(self.steps):
                rows = torch.randint(len(data.inputs), (BATCH,))
                optimizer.zero_grad()
                cross_entropy(net(data.inputs[rows]), data.classes[rows]).backward()
                optimizer.step()
                rates.step()
        return net.eval()


def template_mlp() -> nn.Module:
    """The layers of the most used Lightning template."""
    widths = (784, 64, 128, 64)
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def plain_mlp() -> nn.Module:
    """Four linear layers without any norm."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(32 * 9, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU()),
        nn.Linear(64, 6),
    )


class Residual(nn.Module):
    """Two linear layers, which are added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of rows."""
        out: Tensor = x + self.branch(x)
        return out


def residual_mlp() -> nn.Module:
    """Four residual pairs of linear layers with LayerNorm."""
    return nn.Sequential(nn.Flatten(), nn.Linear(32 * 9, 96), *(Residual(96) for _ in range(4)), nn.Linear(96, 6))


class LSTM(nn.Module):
    """An LSTM over the steps of a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(9, 32, batch_first=True)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Of signals."""
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


def cnn(norm: Callable[[int], nn.Module], width: int = 24) -> nn.Module:
    """Five convolutions and two linear layers."""
    channels = (3, width, width, 2 * width, 2 * width, 4 * width)
    layers: list[nn.Module] = []
    for place, (a, b) in enumerate(pairwise(channels)):
        layers += [nn.Conv2d(a, b, 3, 2 if place % 2 == 0 else 1, 1), norm(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 16, 128), nn.ReLU(), nn.Linear(128, 10))


def published() -> nn.Module:
    """The public ResNet-20, trained fully."""
    net: nn.Module = instantiate(configuration("experiment=cifar10_resnet20").model)
    load_weights(net, data_folder() / "weights" / "resnet20-12fca82f.th")
    return net


NETWORKS = (
    Network("template MLP, BatchNorm, 60 steps (digits)", template_mlp, digits, 60),
    Network("template MLP, BatchNorm, 1,500 steps (digits)", template_mlp, digits, 1500),
    Network("MLP without a norm, 100 steps (HAR)", plain_mlp, har, 100),
    Network("MLP without a norm, 1,500 steps (HAR)", plain_mlp, har, 1500),
    Network("residual MLP, LayerNorm, 1,000 steps (HAR)", residual_mlp, har, 1000),
    Network("CNN over time, BatchNorm, 400 steps (HAR)", lambda: SignalCNN(9, 6, 32), har, 400),
    Network("GRU, 600 steps (HAR)", lambda: GRUClassifier(9, 6, 32), har, 600, 5e-3, (0,)),
    Network("LSTM, 600 steps (HAR)", LSTM, har, 600, 5e-3, (0,)),
    Network("CNN, BatchNorm, 100 steps (CIFAR-10)", lambda: cnn(nn.BatchNorm2d), cifar, 100),
    Network("CNN, BatchNorm, 800 steps (CIFAR-10)", lambda: cnn(nn.BatchNorm2d), cifar, 800, 2e-3, (0,)),
    Network("CNN without a norm, 800 steps (CIFAR-10)", lambda: cnn(nn.Identity), cifar, 800, 1e-3, (0,)),
    Network("MobileNet-V1 x0.25, 800 steps (CIFAR-10)", lambda: MobileNetV1(0.25, 10, 1), cifar, 800, 4e-3, (0,)),
    Network("vision transformer, 800 steps (CIFAR-10)", lambda: VisionTransformer(32, 4), cifar, 800, 1e-3, (0,)),
    Network(
        "timm's MobileNet-V3 small x0.5, 600 steps (CIFAR-10)",
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
        cifar,
        600,
        4e-3,
        (0,),
    ),
    Network("published ResNet-20 (CIFAR-10)", published, cifar, 0, seeds=(0,)),
)
