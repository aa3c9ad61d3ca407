"""How much of a pruned network comes back without labels and without training, on a thousand images.

    REFLOW_DATA=... python benchmarks/strongest.py [FOLDER]

Published ResNets on the 10,000 test images of CIFAR-10: pruned once by global magnitude, and repaired in six ways, on
1,024 training images, with the augmentation of their training and without a label. Three seeds choose the images.
Finished cells are kept in FOLDER, if one is given, so that a second run goes on from there; several runs that share it
share the work. Hours on two cores. Writes docs/strongest.md and its plot, by Ctrl-C of what there is.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from strongest_networks import Published, published
from strongest_page import write
from tables import in_kept_folder
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from reflow_lightning import Pruner
from reflow_lightning.running.files import write_whole

SEEDS = (0, 1, 2)
IMAGES, BATCH = 1024, 128
TARGETS = ("0.9", "0.95", "0.8", "2:4", "0.7", "0.6", "0.5")  # the hardest first
ARMS: dict[str, dict[str, Any]] = {
    "none": {"repair": "none"},
    "REFLOW": {"repair": "batchnorm"},
    "reconstruct": {"repair": "reconstruct"},
    "reselect": {"repair": "reselect"},
    "12 steps": {"repair": "reconstruct", "steps": 12},
    "align": {"repair": ["reconstruct", "align"]},
    "best": {"repair": "best", "budget": "20min"},
}


class Again:
    """The same images in every pass, in another order and with other augmentation."""

    def __init__(self, data: Dataset[Any], seed: int) -> None:
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:IMAGES]  # type: ignore[arg-type]
        self._loader = DataLoader(Subset(data, chosen.tolist()), BATCH, shuffle=True)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)


@torch.no_grad()
def accuracy(model: nn.Module, test: list[Any]) -> float:
    """Share of the test images whose class has the largest logit."""
    model.eval()
    hits = torch.cat([model(inputs).argmax(1) == classes for inputs, classes in test])
    return float(hits.double().mean())


def cell(case: Published, dense: nn.Module, test: list[Any], target: str, seed: int, arm: str) -> dict[str, Any]:
    """One pruning with one repair: its accuracy, how long it took, and what it consisted of."""
    model = copy.deepcopy(dense)
    how: dict[str, Any] = {"pattern": target} if ":" in target else {}
    sparsity = 0.5 if how else float(target)
    pruner = Pruner(
        sparsity,
        **how,
        **ARMS[arm],
        exclude=(*case.exclude, *(("conv1.*",) if how else ())),  # three input channels fit no pattern of four
        calibration_batches=IMAGES // BATCH,
        monitor=False,
        seed=seed,
    )
    start = time.perf_counter()
    event = pruner.apply(model, Again(case.data.splits["calibration"], seed))
    seconds = time.perf_counter() - start
    return {"accuracy": accuracy(model, test), "seconds": seconds, "steps": len(event.steps), "recipe": event.recipe}


def claimed(path: Path) -> bool:
    """Whether another run of this script has begun a cell, or has finished it; it is this run's from now on if not."""
    try:
        (path.parent / f"{path.name}.claimed").touch(exist_ok=False)
    except FileExistsError:
        return True
    return path.exists()


def measure(case: Published, folder: Path) -> None:
    """Fill the cells of a network."""
    case.data.setup()
    dense, test = case.load(case.data), list(case.data.test_dataloader())
    of_dense = accuracy(dense, test)
    for seed in SEEDS:
        for target in TARGETS:
            for arm in ARMS:
                name = f"{case.name}-{target}-{seed}-{arm}".replace(" ", "_").replace(":", "of")
                path = folder / f"{name}.json"
                if claimed(path):
                    continue
                found = {"network": case.name, "dense": of_dense, "target": target, "seed": seed, "arm": arm}
                try:
                    found |= cell(case, dense, test, target, seed, arm)
                except BaseException:
                    path.with_name(f"{path.name}.claimed").unlink()
                    raise
                write_whole(path, json.dumps(found).encode())
                print(found, flush=True)


def main(folder: Path) -> None:
    """Fill what is missing, and write the page."""
    warnings.simplefilter("ignore")
    try:
        for case in published():
            measure(case, folder)
    finally:
        write([json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))], list(ARMS))


if __name__ == "__main__":
    in_kept_folder(main)
