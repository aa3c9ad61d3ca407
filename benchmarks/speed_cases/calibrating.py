"""Population statistics for BatchNorm layers, against bare passes over the same batches in train mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from fvcore.nn.precise_bn import update_bn_stats
from paired import Times, by_turns
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.flop_counter import FlopCounterMode

from reflow_lightning import calibrate
from reflow_lightning.experiments.models.resnet import ResNet
from speed_cases.floors import operations_per_second
from speed_cases.row import row

TITLE = "Calibrating BatchNorm"
TURNS = 7


def _functions(model: nn.Module, batches: list[Tensor]) -> dict[str, Callable[[], object]]:
    @torch.no_grad()
    def bare() -> None:
        model.train()
        for batch in batches:
            model(batch)

    def ours() -> None:
        calibrate(model, batches, repair="batchnorm", max_batches=len(batches), progress=False)

    def fvcore() -> None:
        update_bn_stats(model.train(), batches, num_iters=len(batches))

    return {"bare": bare, "ours": ours, "fvcore": fvcore, "torch": lambda: update_bn(batches, model)}


def _operations(model: nn.Module, batch: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(batch)
    return int(counter.get_total_flops())


def _row(name: str, model: nn.Module, count: int, size: int, pixels: int, note: str) -> dict[str, Any]:
    batches = [torch.randn(size, 3, pixels, pixels) for _ in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times: Times = by_turns(_functions(model, batches), TURNS)
    ratio, against = times.ratio("ours", "bare"), times.ratio("ours", "fvcore")
    met = ratio <= 1.05 and against <= 1.0
    return row(
        f"calibrate('batchnorm'), {name}, {count} x {size} at {pixels} px",
        f"{times.median('ours'):.2f} s",
        times.spread("ours", "bare"),
        f"bare forward {times.median('bare'):.2f} s; precise_bn {times.spread('fvcore', 'bare')}, "
        f"update_bn {times.spread('torch', 'bare')}; ours over precise_bn {times.spread('ours', 'fvcore')}",
        f"{_operations(model, batches[0]) * count / operations_per_second():.2f} s: multiplications and additions",
        "<= 1.05; <= 1 x precise_bn",
        met,
        "" if met else note,
    )


def rows() -> list[dict[str, Any]]:
    """Three networks."""
    small = (
        "each call of a layer is watched, and its statistics are checked and merged exactly: some 0.2 ms in Python, "
        "whatever the size of the activations; a hundredth of a second once, to leave no trace in the model"
    )
    return [
        _row("ResNet-20", ResNet(), 4, 64, 32, small),
        _row("ResNet-50", torchvision.models.resnet50(), 3, 4, 160, small),
        _row("MobileNet-V2", torchvision.models.mobilenet_v2(), 4, 16, 96, small),
    ]
