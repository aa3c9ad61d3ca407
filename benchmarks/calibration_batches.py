"""How many batches ``max_batches="auto"`` takes, and what share of the gain of 200 batches it brings.

    REFLOW_DATA=... python benchmarks/calibration_batches.py

Needs what ``cifar10.py``, ``imagenet.py`` and ``har2.py`` need. Takes about half an hour on one core.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from statistics import mean, median
from typing import Any

import torch
from hydra.utils import instantiate
from imagenet import Half, dense_model
from lightning.pytorch import seed_everything
from tables import Row, configuration, data_folder, publish
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration.batchnorm import Population, population_statistics, write_statistics
from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.training import make_trainer
from reflow_lightning.running.batches import MOST_BATCHES
from reflow_lightning.running.forward import default_forward

ORDERS = (1, 2, 3)  # seeds of the loader for "auto"; the 200 batches are of SEED
TEST_IMAGES = 2000
SEED = 0


@dataclass(frozen=True)
class Case:
    """A network that is trained, and its data."""

    name: str
    dense: nn.Module
    calibration: DataLoader[Any]
    test: list[Any]
    sparsities: tuple[float, ...]

    def accuracy(self, model: nn.Module) -> float:
        """Share of the test samples that are classified correctly."""
        model.eval()
        with torch.no_grad():
            hits = [model(inputs).argmax(1) == classes for inputs, classes in self.test]
        return float(torch.cat(hits).double().mean())

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Batches without end, each pass in a new order and augmented anew."""
        torch.manual_seed(seed)
        for _ in count():
            for inputs, _ in self.calibration:
                yield inputs


def digits() -> Case:
    """The default run of the application."""
    net, data = trained()
    return Case("ResNet-20, digits", net, data.calibration_dataloader(), test_of(data), (0.8, 0.9, 0.95))


def har() -> Case:
    """Three convolutions over time."""
    net, data = trained("data=har2", "model=signal_cnn", "epochs=5")
    return Case("CNN, HAR-2", net, data.calibration_dataloader(), test_of(data), (0.8, 0.9, 0.95, 0.97))


def trained(*overrides: str) -> tuple[nn.Module, Any]:
    """A network trained here, and its data."""
    cfg = configuration(*overrides)
    seed_everything(SEED, verbose=False)
    data, module = instantiate(cfg.data), instantiate(cfg.module)
    make_trainer(cfg, logger=False, callbacks=[]).fit(module, datamodule=data)
    return module.net, data


def cifar10(model: str, weights: str) -> Case:
    """A public network on CIFAR-10."""
    cfg = configuration(f"experiment=cifar10_{model}", "data.verify=false")
    data, net = instantiate(cfg.data), instantiate(cfg.module).net
    data.setup("fit")
    load_weights(net, data_folder() / "weights" / weights)
    name = f"{model.replace('resnet', 'ResNet-')}, CIFAR-10"
    return Case(name, net, data.calibration_dataloader(), test_of(data), (0.5, 0.7, 0.8, 0.9))


def imagenet() -> Case:
    """A public MobileNet-V1 x0.25; half of the sample calibrates, the other half is tested."""
    images = ImageFolder(data_folder() / "imagenet_sample")
    ours, others = Half(images, 0), Half(images, 1)
    sparsities = (0.4, 0.5, 0.6, 0.7)
    return Case("MobileNet-V1 x0.25, ImageNet", dense_model(), ours.augmented, others.batches, sparsities)


def test_of(data: Any) -> list[Any]:
    """The first test samples."""
    split = data.splits["test"]
    return list(DataLoader(Subset(split, range(min(TEST_IMAGES, len(split)))), 250))


def repair_fully(models: list[nn.Module], batches: Iterable[Tensor]) -> None:
    """As ``calibrate`` does with 200 batches, for several networks in one pass: decoding images takes the longest."""
    populations: list[Population] = []
    for batch in islice(batches, MOST_BATCHES):
        parts = [population_statistics(model, [batch], default_forward) for model in models]
        for population, part in zip(populations, parts, strict=bool(populations)):
            for name, statistic in population.layers.items():
                statistic.update(part.layers[name].state)
        populations = populations or parts
    for model, population in zip(models, populations, strict=True):
        write_statistics(model, population)


def measure(case: Case) -> list[Row]:
    """A row for each sparsity."""
    pruned = [copy.deepcopy(case.dense) for _ in case.sparsities]
    for model, sparsity in zip(pruned, case.sparsities, strict=True):
        prune(model, sparsity)
    full = copy.deepcopy(pruned)
    repair_fully(full, case.batches(SEED))
    dense, rows = case.accuracy(case.dense), []
    for model, repaired, sparsity in zip(pruned, full, case.sparsities, strict=True):
        before, after = case.accuracy(model), case.accuracy(repaired)
        found, taken = [], []
        for seed in ORDERS:
            result = calibrate(model, case.batches(seed), max_batches="auto")
            found.append(case.accuracy(model))
            taken.append(result.batches)
            result.undo()
        rows.append(
            {
                "network": case.name,
                "sparsity": f"{sparsity:g}",
                "dense": dense,
                "pruned": before,
                f"{MOST_BATCHES} batches": after,
                "auto": mean(found),
                "share of the gain": (mean(found) - before) / (after - before),
                "batches": ", ".join(map(str, taken)),
            }
        )
        print(rows[-1], flush=True)
    return rows


def summary(rows: list[Row]) -> Row:
    """The median number of batches over all runs, and the share of all gains together."""
    gained = sum(row["auto"] - row["pruned"] for row in rows)
    possible = sum(row[f"{MOST_BATCHES} batches"] - row["pruned"] for row in rows)
    taken = [int(number) for row in rows for number in row["batches"].split(", ")]
    together = {"network": "all", "share of the gain": gained / possible, "batches": f"median {median(taken):g}"}
    return {column: together.get(column) for column in rows[0]}


CASES = {
    "digits": digits,
    "har": har,
    "resnet20": lambda: cifar10("resnet20", "resnet20-12fca82f.th"),
    "resnet32": lambda: cifar10("resnet32", "resnet32-d509ac18.th"),
    "imagenet": imagenet,
}

if __name__ == "__main__":
    rows = [row for case in CASES.values() for row in measure(case())]
    publish("calibration_batches", [*rows, summary(rows)], SEED, "docs/calibration_batches.md")
