"""The strongest repair of a small network without shortcuts: MobileNet-V1 x0.25 on a sample of ImageNet.

    REFLOW_DATA=... python benchmarks/strongest_imagenet.py

Each half of the thousand images is tested with a network that was repaired with the other half, in 1,000 augmented
images. Needs what `imagenet.py` needs. A quarter of an hour on a core.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from imagenet import BATCH_SIZE, SEED, Half, correct, dense_model
from tables import Row, data_folder, publish
from torch import Tensor
from torchvision.datasets import ImageFolder

from reflow_lightning import Pruner

SPARSITIES = (0.5, 0.7)
BATCHES = 10
ARMS: dict[str, dict[str, Any]] = {
    "none": {"repair": "none"},
    "REFLOW": {"repair": "batchnorm"},
    "reconstruct": {"repair": "reconstruct"},
    "reselect": {"repair": "reselect"},
    "best": {"repair": "best", "budget": "5min"},
}


def measure(sparsity: float, halves: list[Half], batches: list[list[Tensor]], dense: float) -> Row:
    """The accuracy with each repair, and the share of what REFLOW leaves missing that the strongest wins back."""
    total = sum(len(half.batches) * BATCH_SIZE for half in halves)
    row: Row = {"sparsity": f"{sparsity:g}", "dense": dense}
    recipes = set()
    for arm, how in ARMS.items():
        right, start = 0, time.perf_counter()
        for half, others in zip(halves, reversed(batches), strict=True):
            model = dense_model()
            event = Pruner(sparsity, **how, calibration_batches=BATCHES, monitor=False, seed=SEED).apply(model, others)
            recipes |= {event.recipe} - {""}
            right += correct(model, half)
        row[arm] = right / total
        print(sparsity, arm, row[arm], f"{time.perf_counter() - start:.0f} s", recipes, flush=True)
    row["won back of what REFLOW misses"] = (row["best"] - row["REFLOW"]) / (dense - row["REFLOW"])
    return row | {"recipe": "; ".join(sorted(recipes))}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(SEED)
    images = ImageFolder(data_folder() / "imagenet_sample")
    halves = [Half(images, 0), Half(images, 1)]
    batches = [half.calibration(BATCHES) for half in halves]
    dense = sum(correct(dense_model(), half) for half in halves) / len(images)
    rows = [measure(sparsity, halves, batches, dense) for sparsity in SPARSITIES]
    publish("strongest_imagenet", rows, SEED, document="docs/strongest.md")
