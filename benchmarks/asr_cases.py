"""The networks that ASR is tried on, with their data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from tables import configuration, data_folder
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.models.vgg import VGG
from reflow_lightning.experiments.training import make_trainer

SEED = 0
BATCH = 128


@dataclass(frozen=True)
class Case:
    """A dense network with its calibration batches, its test batches, and the numbers of batches that are tried."""

    name: str
    dense: nn.Module
    batches: list[Tensor]
    test: list[Any]
    numbers: tuple[int, ...]


def cifar10(model: str, weights: str, numbers: tuple[int, ...], test_images: int) -> Case:
    """A public network."""
    cfg = configuration(f"experiment=cifar10_{model}", "data.verify=false", f"data.calibration_batch_size={BATCH}")
    data, net = instantiate(cfg.data), instantiate(cfg.module).net.eval()
    data.setup()
    load_weights(net, data_folder() / "weights" / weights)
    return case_of(model.replace("resnet", "ResNet-"), net, data, numbers, test_images)


def digits(numbers: tuple[int, ...]) -> Case:
    """Nine convolutions, each followed by BatchNorm, without shortcuts; trained here."""
    cfg = configuration(
        "data=digits", "model=vgg", "optimizer=adam", "epochs=10", f"data.calibration_batch_size={BATCH}"
    )
    seed_everything(SEED, verbose=False)
    data, module = instantiate(cfg.data), instantiate(cfg.module)
    module.net = with_batchnorm(module.net)
    make_trainer(cfg, logger=False, callbacks=[]).fit(module, datamodule=data)
    return case_of("VGG, digits", module.net.eval(), data, numbers, 360)


def with_batchnorm(net: VGG) -> VGG:
    """BatchNorm after every convolution."""
    layers: list[nn.Module] = []
    for layer in net.features:
        layers += [layer, nn.BatchNorm2d(layer.out_channels)] if isinstance(layer, nn.Conv2d) else [layer]
    net.features = nn.Sequential(*layers)
    return net


def case_of(name: str, dense: nn.Module, data: Any, numbers: tuple[int, ...], test_images: int) -> Case:
    """With batches of the training transform, pass after pass, and the first test images."""
    torch.manual_seed(SEED)
    passes = (images for _ in range(max(numbers)) for images, _ in data.calibration_dataloader())
    batches = list(islice((images for images in passes if len(images) == BATCH), max(numbers)))
    split = data.splits["test"]
    test = list(DataLoader(Subset(split, range(min(test_images, len(split)))), BATCH))
    return Case(name, dense, batches, test, numbers)
