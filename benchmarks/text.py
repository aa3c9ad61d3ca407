"""A small transformer on sentences: trained here, pruned once by magnitude, and repaired in five ways.

    REFLOW_DATA=... python benchmarks/text.py [FOLDER [MODEL]]

SST-2 and TREC, three seeds each, which train the networks and draw the batches. MODEL is a folder of `transformers`
with a pretrained encoder, which is trained on SST-2 as well, with one seed. What is measured is kept in FOLDER, if
one is given, so that a second run goes on from there. Three quarters of an hour on two cores, without MODEL. Writes
docs/language.md and its plot, by Ctrl-C of what there is.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pictures import draw
from tables import Row, configuration, data_folder, publish
from torch import nn

from reflow_lightning import Pruner
from reflow_lightning.experiments.stages import BestWeights
from reflow_lightning.experiments.training import make_trainer
from reflow_lightning.running.files import read_tensors, write_tensors, write_whole
from reflow_lightning.running.forward import default_forward

PRUNINGS = ((0.5, "global"), (0.7, "global"), (0.8, "global"), (0.9, "global"), (0.95, "global"), (0.95, "lamp"))
SEEDS = (0, 1, 2)
REPAIRS = ("none", "moments", "reconstruct", "reselect", "best")
NAMES = ("network", "data", "sparsity", "allocation")
STATES = ("dense", "pruned", *REPAIRS[1:])
BUDGET = "30s"  # of the last
BATCHES = 20  # of the calibration loader, for every repair the same


@dataclass(frozen=True)
class Case:
    """A network, its data, the overrides that train it, the seeds, and how it is pruned."""

    network: str
    data: str
    recipe: tuple[str, ...]
    seeds: tuple[int, ...] = SEEDS
    prunings: tuple[tuple[float, str], ...] = PRUNINGS


CASES = (
    Case("transformer, 2 blocks", "SST-2", ("experiment=sst2_text_transformer",)),
    Case("transformer, 2 blocks", "TREC", ("experiment=trec_text_transformer",)),
)


def pretrained(folder: Path) -> Case:
    """The encoder in a folder of transformers, trained on SST-2 for two epochs."""
    recipe = ("data=sst2", "model=transformers", f"name={folder}", "weights=DEFAULT", "optimizer=adamw", "epochs=2")
    prunings = ((0.5, "global"), (0.9, "global"))  # each takes a quarter of an hour on one core
    recipe = (*recipe, "optimizer.lr=5e-5", "scheduler=cosine")
    return Case("MiniLM, 6 layers, pretrained", "SST-2", recipe, (0,), prunings)


def trained(case: Case, seed: int, cfg: DictConfig, data: pl.LightningDataModule, folder: Path) -> nn.Module:
    """The dense network of the best validated epoch: from the folder if its recipe is the same, else trained now."""
    path = folder / f"{case.network.split(',')[0]}_{case.data}_{seed}.ckpt".lower()
    module = instantiate(cfg.module)
    if not path.exists() or read_tensors(path)["recipe"] != list(case.recipe):
        pl.seed_everything(seed, workers=True, verbose=False)
        module = instantiate(cfg.module)
        best = BestWeights(cfg.monitor, cfg.mode)
        make_trainer(cfg, callbacks=[best], logger=False).fit(module, datamodule=data)
        write_tensors(path, {"state_dict": best.state, "recipe": list(case.recipe)})
    module.load_state_dict(read_tensors(path)["state_dict"])
    net: nn.Module = module.net
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, batches: Sequence[Any]) -> float:
    """Share of the sentences whose class has the largest logit."""
    hits = torch.cat([default_forward(net, batch).argmax(1) == batch[1] for batch in batches])
    return float(hits.double().mean())


def measure(case: Case, seed: int, folder: Path) -> list[Row]:
    """A row for each sparsity; all repairs see the same batches, drawn once."""
    kept = folder / f"{case.network.split(',')[0]}_{case.data}_{seed}.json".lower()
    if kept.exists():
        found: list[Row] = json.loads(kept.read_text())
        return found
    cfg = configuration(*case.recipe, f"seed={seed}")
    data: pl.LightningDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    dense = trained(case, seed, cfg, data, folder)
    pl.seed_everything(seed, verbose=False)
    batches, test = list(islice(data.calibration_dataloader(), BATCHES)), list(data.test_dataloader())
    rows: list[Row] = []
    for sparsity, allocation in case.prunings:
        row: Row = {"network": case.network, "data": case.data, "sparsity": f"{sparsity:g}", "allocation": allocation}
        row["dense"] = accuracy(dense, test)
        for repair in REPAIRS:
            net, budget = copy.deepcopy(dense), BUDGET if repair == "best" else None
            how = {"repair": repair, "budget": budget, "calibration_batches": len(batches), "monitor": False}
            Pruner(sparsity, allocation=allocation, seed=seed, **how).apply(net, batches)
            row["pruned" if repair == "none" else repair] = accuracy(net, test)
        print(row, flush=True)
        rows.append(row)
    write_whole(kept, json.dumps(rows).encode())
    return rows


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """The rows with mean and standard deviation over the seeds; of one seed its value alone."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in NAMES), []).append(row)
    return [
        dict(zip(NAMES, names, strict=True)) | {state: _spread([row[state] for row in of_seeds]) for state in STATES}
        for names, of_seeds in found.items()
    ]


def _spread(values: Sequence[float]) -> str:
    percent = [100 * value for value in values]
    return f"{mean(percent):.1f}" + (f" ± {stdev(percent):.1f}" if len(percent) > 1 else " (1)")


def main(folder: Path, model: Path | None) -> None:
    """Measure every case and write the page."""
    data_folder()  # or an explanation, before anything is trained
    folder.mkdir(parents=True, exist_ok=True)
    cases = (*CASES, *((pretrained(model),) if model else ()))
    rows: list[Row] = []
    try:
        for seed in SEEDS:
            for case in cases:
                rows += measure(case, seed, folder) if seed in case.seeds else []
    finally:  # what there is, when Ctrl-C ends it
        rows.sort(key=lambda row: [(case.network, case.data) for case in cases].index((row["network"], row["data"])))
        publish("text", over_seeds(rows), 0, document="docs/language.md")
        draw("text")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else made), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
