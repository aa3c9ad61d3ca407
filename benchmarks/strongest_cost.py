"""What each repair of `strongest.py` costs, against an epoch of training: seconds on a core, and memory.

    REFLOW_DATA=... python benchmarks/strongest_cost.py

The published ResNet-20 at 0.9 with 1,024 images. Memory is what tensors take at most beyond the network and the images,
as torch's allocator counts it; alignment is counted over twenty steps, since more take no more. Five minutes on a core.
Writes a table of docs/strongest.md.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from peak import peak_bytes
from strongest import ARMS, BATCH, IMAGES, Again
from strongest_networks import Published, published
from tables import Row, publish
from torch import nn

from reflow_lightning import Pruner
from reflow_lightning.calibration import Align

SHORT: dict[str, dict[str, Any]] = {"align": {"repair": ["reconstruct", Align(steps=20)]}}
"""Stand for the arms whose memory takes long to count."""
LEFT_OUT = ("none", "best")  # the second is of the others


def event(case: Published, dense: nn.Module, how: dict[str, Any]) -> Callable[[], object]:
    """A pruning with a repair, ready to run."""
    model, batches = copy.deepcopy(dense), Again(case.data.splits["calibration"], 0)
    pruner = Pruner(0.9, **how, exclude=case.exclude, calibration_batches=IMAGES // BATCH, monitor=False)
    return lambda: pruner.apply(model, batches)


def epoch(case: Published, dense: nn.Module, most: int | None = None) -> Callable[[], object]:
    """An epoch of training, or its first batches."""
    model = copy.deepcopy(dense).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def train() -> None:
        for number, (images, classes) in enumerate(case.data.train_dataloader()):
            if number == most:
                return
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), classes).backward()
            optimizer.step()

    return train


def seconds(function: Callable[[], object]) -> float:
    """How long it takes, once."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Measure all, and write the table."""
    warnings.simplefilter("ignore")
    case = published()[0]
    case.data.setup()
    dense = case.load(case.data)
    seconds(epoch(case, dense, most=3))  # warms up
    rows: list[Row] = []

    def add(name: str, whole: Callable[[], object], short: Callable[[], object]) -> None:
        rows.append({"": name, "seconds": f"{seconds(whole):.1f}", "memory, MiB": f"{peak_bytes(short) / 2**20:.0f}"})
        print(rows[-1], flush=True)

    images = len(case.data.splits["train"])
    add(f"an epoch of training, {images:,} images", epoch(case, dense), epoch(case, dense, most=3))
    for name, how in ARMS.items():
        if name not in LEFT_OUT:
            add(name, event(case, dense, how), event(case, dense, SHORT.get(name, how)))
    publish("strongest_cost", rows, seed=0, document="docs/strongest.md")


if __name__ == "__main__":
    main()
