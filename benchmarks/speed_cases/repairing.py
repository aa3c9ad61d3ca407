"""`reconstruct` beside bare passes of both networks over the same batches."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence

import torch
import torchvision
from paired import by_turns
from tables import Row
from torch import Tensor, nn

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Reconstruct
from reflow_lightning.cost import measure_cost
from reflow_lightning.experiments.models.resnet import ResNet
from speed_cases.floors import operations_per_second
from speed_cases.row import row

TITLE = "Repairs in lock step"
SPARSITY = 0.9
IMAGE = torch.randn(1, 3, 32, 32)


def rows() -> list[Row]:
    """Small networks beside bare passes, deep ones beside shallow ones, and a large one."""
    warnings.simplefilter("ignore")
    images = [torch.randn(128, 3, 32, 32) for _ in range(8)]
    shallow = _networks(ResNet(blocks=3), images)
    times = by_turns({"ours": lambda: _repair(*shallow, images), "bare": lambda: _bare(shallow, images)}, 3, warm_up=0)
    anew = _seconds(lambda: _repair(*shallow, images, held_bytes=0))
    deep = _networks(ResNet(blocks=18), images)
    of_deep = _seconds(lambda: _repair(*deep, images))
    growth, seconds = of_deep / times.median("ours"), times.median("ours")
    found = [
        row(
            "ResNet-20, 8 x 128 images of 32 px",
            f"{seconds:.1f} s",
            times.spread("ours", "bare"),
            f"a bare pass of both networks, {times.median('bare'):.1f} s",
            f"{_floor(shallow[1], images):.1f} s",
            "<= 6",
            times.ratio("ours", "bare") <= 6,
            f"one layer at a time: {anew:.0f} s",
        ),
        row(
            "ResNet-110, the same images",
            f"{of_deep:.1f} s",
            f"{growth:.1f}",
            f"ResNet-20, {seconds:.1f} s",
            f"{_floor(deep[1], images):.1f} s",
            "<= 7",
            growth <= 7,
            "" if growth <= 7 else f"{_work(deep[1]) / _work(shallow[1]):.1f} times the multiply-adds of ResNet-20",
        ),
    ]
    photos = [torch.randn(32, 3, 160, 160) for _ in range(8)]
    large = _networks(torchvision.models.resnet50(), photos)
    bare, ours = _seconds(lambda: _bare(large, photos)), _seconds(lambda: _repair(*large, photos))
    beside = f"a bare pass of both networks, {bare:.0f} s"
    floor = f"{_floor(large[1], photos):.0f} s"
    cost = "ResNet-50, 8 x 32 images of 160 px"
    found.append(row(cost, f"{ours / 60:.1f} min", f"{ours / bare:.1f}", beside, floor, "minutes", ours < 600))
    return found


def _networks(dense: nn.Module, batches: Sequence[Tensor]) -> tuple[nn.Module, nn.Module]:
    """A pruned network and its dense one, whose BatchNorm layers know the data."""
    with torch.no_grad():
        dense.train()
        dense(batches[0])
    model = copy.deepcopy(dense.eval())
    prune(model, SPARSITY)
    return model, dense


def _repair(model: nn.Module, dense: nn.Module, batches: Sequence[Tensor], held_bytes: int | None = None) -> None:
    repair = Reconstruct(held_bytes=held_bytes)
    calibrate(copy.deepcopy(model), batches, repair=repair, reference=dense, max_batches=len(batches))


@torch.no_grad()
def _bare(networks: Sequence[nn.Module], batches: Sequence[Tensor]) -> None:
    for network in networks:
        for batch in batches:
            network(batch)


def _floor(dense: nn.Module, batches: Sequence[Tensor]) -> float:
    """Seconds that the products of both passes take at the rate of matrix products."""
    return 2 * 2 * _work(dense, batches[0][:1]) * sum(map(len, batches)) / operations_per_second()


def _work(dense: nn.Module, image: Tensor = IMAGE) -> int:
    return measure_cost(dense, image).multiply_adds


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
