"""Networks without BatchNorm: dense, pruned once by magnitude, and repaired in four ways.

    REFLOW_DATA=... python benchmarks/without_batchnorm.py [FOLDER]

The dense networks are trained first, in a quarter of an hour or so on two cores, and kept in FOLDER, if one is given: a
second run starts from those whose recipe is still the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tables import Row, configuration, data_folder, in_kept_folder, publish
from torch import nn

from reflow_lightning import Pruner
from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.stages import BestWeights
from reflow_lightning.experiments.training import make_trainer
from reflow_lightning.running.files import read_tensors, write_tensors

SEED = 0
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
REPAIRS = ("none", "moments", "reconstruct", "reselect", "best")
BUDGET = "1min"  # of the last, the default
BATCHES = 20  # of the calibration loader, for every repair the same


@dataclass(frozen=True)
class Case:
    """A network, its norm, and the overrides that train it dense."""

    network: str
    data: str
    norm: str
    recipe: tuple[str, ...]


LAYERNORM = ("optimizer=adamw", "optimizer.weight_decay=0.05")
CASES = (
    Case(
        "vision transformer",
        "digits",
        "LayerNorm",
        ("model=vit", *LAYERNORM, "optimizer.lr=0.001", "scheduler.warmup_epochs=5", "epochs=100"),
    ),
    Case(
        "ConvNeXt",
        "digits",
        "LayerNorm",
        ("model=convnext", *LAYERNORM, "optimizer.lr=0.004", "scheduler.warmup_epochs=3", "epochs=80"),
    ),
    Case("VGG", "digits", "none", ("model=vgg", "optimizer=adam", "optimizer.lr=0.001", "epochs=20")),
    Case("GRU", "digits", "none", ("model=gru", "optimizer=adam", "optimizer.lr=0.005", "epochs=40")),
    Case(
        "FastGRNN",
        "har2",
        "none",
        (
            "model=fastgrnn",
            "data.val_share=0.1",
            "optimizer=adam",
            "optimizer.lr=0.005",
            "optimizer.weight_decay=0.0001",
            "epochs=80",
            "label_smoothing=0.1",
            "monitor=val/loss",
            "mode=min",
            "trainer.gradient_clip_val=0.25",
        ),
    ),
)


def trained(case: Case, cfg: DictConfig, data: pl.LightningDataModule, folder: Path) -> nn.Module:
    """The dense network of the best validated epoch: from the folder if its recipe is the same, else trained now."""
    path = folder / f"{case.network.lower().replace(' ', '_')}_{case.data}.ckpt"
    if not path.exists() or read_tensors(path)["recipe"] != list(case.recipe):
        pl.seed_everything(SEED, workers=True, verbose=False)
        best = BestWeights(cfg.monitor, cfg.mode)
        make_trainer(cfg, callbacks=[best], logger=False).fit(instantiate(cfg.module), datamodule=data)
        write_tensors(path, {"state_dict": best.state, "recipe": list(case.recipe)})
    net: nn.Module = instantiate(cfg.model)
    load_weights(net, path)
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, batches: Sequence[Any]) -> float:
    """Share of the samples whose class has the largest logit."""
    hits = torch.cat([net(inputs).argmax(1) == classes for inputs, classes in batches])
    return float(hits.double().mean())


def measure(case: Case, folder: Path) -> list[Row]:
    """A row for each sparsity; all repairs see the same batches, drawn once."""
    cfg = configuration(f"data={case.data}", *case.recipe, f"seed={SEED}")
    data: pl.LightningDataModule = instantiate(cfg.data)
    data.prepare_data()
    dense = trained(case, cfg, data, folder)
    data.setup()
    pl.seed_everything(SEED, verbose=False)
    batches = list(islice(data.calibration_dataloader(), BATCHES))
    test = list(data.test_dataloader())
    rows: list[Row] = []
    for sparsity in SPARSITIES:
        row: Row = {"network": case.network, "data": case.data, "norm": case.norm, "sparsity": f"{sparsity:g}"}
        row["dense"] = accuracy(dense, test)
        for repair in REPAIRS:
            net, budget = copy.deepcopy(dense), BUDGET if repair == "best" else None
            how = {"repair": repair, "budget": budget, "calibration_batches": len(batches), "monitor": False}
            Pruner(sparsity, **how).apply(net, batches)
            row["pruned" if repair == "none" else repair] = accuracy(net, test)
        print(row, flush=True)
        rows.append(row)
    return rows


def main(folder: Path) -> None:
    """Measure every case and write the page."""
    data_folder()  # or an explanation, before anything is trained
    rows = [row for case in CASES for row in measure(case, folder)]
    publish("without_batchnorm", rows, SEED, document="docs/without_batchnorm.md")


if __name__ == "__main__":
    in_kept_folder(main)
