"""What the repairs of `strongest.py` take of a machine, beside an epoch of training.

    REFLOW_DATA=... python benchmarks/strongest_cost.py

The ResNet-20 of the published tables at 0.9 and 1,024 images. Memory is how far the peak of a fresh process rises above
what it held with the network and the images; the number of steps of alignment does not change it, so there are ten.
Seconds of an epoch are those of 20 steps of batch 128, times 391 for the 50,000 images of CIFAR-10. One thread. Two
minutes.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from strongest import BATCH, IMAGES, Again
from strongest_networks import published
from tables import Row, publish
from torch import nn

from reflow_lightning import Pruner
from reflow_lightning.calibration import Align

ARMS: dict[str, dict[str, Any]] = {
    "REFLOW": {"repair": "batchnorm"},
    "reconstruct": {"repair": "reconstruct"},
    "reselect": {"repair": "reselect"},
    "12 steps": {"repair": "reconstruct", "steps": 12},
    "align": {"repair": ["reconstruct", Align(steps=10)]},
}
STEPS, EPOCH = 20, 391


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def pruned(arm: str) -> tuple[float, float]:
    """Seconds of an event, and the MiB that it takes at most."""
    case, dense, images = _ready()
    pruner = Pruner(0.9, exclude=case.exclude, calibration_batches=IMAGES // BATCH, monitor=False, seed=0, **ARMS[arm])
    return _measured(lambda: pruner.apply(dense, images))


def trained() -> tuple[float, float]:
    """Seconds of an epoch, and the MiB that a step takes at most."""
    _, dense, images = _ready()
    batches = list(images)
    optimizer = torch.optim.SGD(dense.train().parameters(), 0.01, 0.9)

    def steps() -> None:
        for number in range(STEPS):
            x, y = batches[number % len(batches)]
            optimizer.zero_grad()
            nn.functional.cross_entropy(dense(x), y).backward()
            optimizer.step()

    seconds, memory = _measured(steps)
    return seconds / STEPS * EPOCH, memory


def _ready() -> tuple[Any, nn.Module, Again]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = published()[0]
    case.data.setup()
    dense, images = case.load(case.data), Again(case.data.splits["calibration"], 0)
    with torch.no_grad():
        for x, _ in images:
            dense(x)
    return case, dense, images


def _measured(work: Callable[[], object]) -> tuple[float, float]:
    before, start = _peak(), time.perf_counter()
    work()
    return time.perf_counter() - start, (_peak() - before) / 2**20


def in_fresh_process(function: Callable[..., tuple[float, float]], *arguments: str) -> tuple[float, float]:
    """What a function gives in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    """Measure and write the table."""
    epoch, memory = in_fresh_process(trained)
    rows: list[Row] = [
        {"what": "an epoch of training", "seconds": f"{epoch:.0f}", "epochs": "1", "MiB": f"{memory:.0f}"}
    ]
    for arm in ARMS:
        seconds, memory = in_fresh_process(pruned, arm)
        found = ["", ""] if arm == "align" else [f"{seconds:.0f}", f"{seconds / epoch:.2f}"]
        rows.append({"what": arm, "seconds": found[0], "epochs": found[1], "MiB": f"{memory:.0f}"})
        print(rows[-1], flush=True)
    publish("strongest_cost", rows, 0, document="docs/strongest.md")


if __name__ == "__main__":
    main()
