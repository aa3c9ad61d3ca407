"""The networks of benchmarks/collapse.py: dense ones, and how each is pruned and repaired."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import without_batchnorm
from hydra.utils import instantiate
from omegaconf import DictConfig
from tables import configuration, data_folder
from torch import Tensor, nn

from reflow_lightning import calibrate, prune
from reflow_lightning.experiments.checkpoints import load_weights

SEED = 0
BATCHES = 20  # of the calibration loader: for the repair, and where rectifiers are observed


class MLP(nn.Sequential):
    """Linear layers with ReLU between them, on images of 8x8 pixels.

    Args:
        depth: Number of hidden layers.
        width: Units of each.
        in_channels: Channels of the images.
        num_classes: Number of classes.
    """

    def __init__(self, depth: int, width: int, in_channels: int, num_classes: int) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        features = in_channels * 8 * 8
        for _ in range(depth):
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        super().__init__(*layers, nn.Linear(features, num_classes))


def row_norm(name: str, weight: Tensor) -> Tensor:
    """The root mean square of the row that a weight is in, so that whole output channels go."""
    return weight.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (weight.ndim - 1)).expand_as(weight)


@dataclass(frozen=True)
class Case:
    """A dense network, and how it is pruned and repaired."""

    network: str
    data: str
    recipe: tuple[str, ...]
    sparsities: tuple[float, ...]
    repair: str
    criterion: str | Callable[[str, Tensor], Tensor] = "magnitude"
    exclude: tuple[str, ...] = ()
    weights: str | None = None  # public ones, instead of a training


def _recipe(network: str) -> tuple[str, ...]:
    (found,) = (case.recipe for case in without_batchnorm.CASES if case.network == network)
    return found


_MLP = (  # the keys of VGG's configuration fit
    *("model=vgg", "model._target_=collapse_networks.MLP", "model.depth=3", "model.width=256"),
    *("optimizer=adam", "optimizer.lr=0.003", "epochs=60"),
)
_CIFAR10 = ("experiment=cifar10_resnet20", "data.verify=false")
_PUBLIC = "resnet20-12fca82f.th"
_ROWS: dict[str, Any] = {"criterion": row_norm, "exclude": ("linear.weight",)}  # else classes would go
CASES = (
    Case("ResNet-20", "digits", ("model=resnet20",), (0.9, 0.95), "batchnorm"),
    Case("ResNet-20", "cifar10", _CIFAR10, (0.9, 0.95), "batchnorm", weights=_PUBLIC),
    Case("VGG", "digits", _recipe("VGG"), (0.9, 0.95), "reconstruct"),
    Case("MLP", "digits", _MLP, (0.9, 0.95, 0.98), "reconstruct"),
    Case("vision transformer", "digits", _recipe("vision transformer"), (0.9, 0.95), "reconstruct"),
    Case("ConvNeXt", "digits", _recipe("ConvNeXt"), (0.9, 0.95), "reconstruct"),
    Case("ResNet-20, rows", "digits", ("model=resnet20",), (0.5, 0.7), "batchnorm", **_ROWS),
    Case("ResNet-20, rows", "cifar10", _CIFAR10, (0.5, 0.7), "batchnorm", weights=_PUBLIC, **_ROWS),
)


@torch.no_grad()
def outputs(net: nn.Module, test: Sequence[Any]) -> Tensor:
    """The logits of all test samples."""
    return torch.cat([net(inputs) for inputs, _ in test])


def accuracy(logits: Tensor, test: Sequence[Any]) -> float:
    """Share of the samples whose class has the largest logit."""
    return float((logits.argmax(1) == torch.cat([classes for _, classes in test])).double().mean())


@dataclass(frozen=True)
class Material:
    """What a case is measured with: the dense network, training batches, the whole test set."""

    dense: nn.Module
    batches: list[Any]
    test: list[Any]

    @cached_property
    def dense_accuracy(self) -> float:
        """The accuracy of the dense network on the test set."""
        return accuracy(outputs(self.dense, self.test), self.test)


def material(case: Case, folder: Path) -> Material:
    """Load or train the dense network, and draw the batches."""
    cfg = configuration(f"data={case.data}", *case.recipe, f"seed={SEED}")
    data: pl.LightningDataModule = instantiate(cfg.data)
    data.prepare_data()
    dense = _dense(case, cfg, data, folder)
    data.setup()
    pl.seed_everything(SEED, verbose=False)
    return Material(dense, list(islice(data.calibration_dataloader(), BATCHES)), list(data.test_dataloader()))


def _dense(case: Case, cfg: DictConfig, data: pl.LightningDataModule, folder: Path) -> nn.Module:
    if case.weights is None:
        network = case.network.split(",")[0]  # that of rows is the same
        return without_batchnorm.trained(without_batchnorm.Case(network, case.data, "", case.recipe), cfg, data, folder)
    net: nn.Module = instantiate(cfg.model)
    load_weights(net, data_folder() / "weights" / case.weights)
    return net.eval()


def pruned_and_repaired(case: Case, given: Material, sparsity: float) -> nn.Module:
    """A copy of the dense network, pruned and repaired."""
    net = copy.deepcopy(given.dense)
    torch.manual_seed(SEED)
    prune(net, sparsity, criterion=case.criterion, exclude=case.exclude)
    calibrate(
        net, given.batches, repair=case.repair, reference=given.dense, max_batches=len(given.batches), progress=False
    )
    return net.eval()
