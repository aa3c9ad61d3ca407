"""A calibration whose batches come from the host: how much of the transfer hides behind the computing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpu_cases.timing import milliseconds, row
from reflow_lightning import calibrate, prune
from reflow_lightning.experiments.models.resnet import ResNet


def rows(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """The same batches on the device, in pinned memory and in ordinary memory."""
    count, size, turns = (2, 8, 2) if quick else (20, 512, 5)
    model = ResNet(3).to(device)
    prune(model, 0.9)
    ordinary = [torch.randn(size, 3, 32, 32) for _ in range(count)]
    there = [batch.to(device) for batch in ordinary]
    kinds = {"on the device": there, "from ordinary memory": ordinary}
    if device.type == "cuda":
        kinds["from pinned memory"] = [batch.pin_memory() for batch in ordinary]

    def seconds(batches: list[Tensor]) -> float:
        return milliseconds(lambda: _calibrated(model, batches), device, turns)

    times = {kind: seconds(batches) for kind, batches in kinds.items()}
    copying = milliseconds(lambda: [batch.to(device) for batch in ordinary], device, turns)
    least = times.pop("on the device")
    what = f"calibrate a ResNet-20, {count} x {size} images"
    found = [row(f"{what} on the device", f"{least:.3g} ms", f"copying them there takes {copying:.3g} ms")]
    return found + [
        row(f"{what} {kind}", f"{took:.3g} ms", f"{took - least:.3g} ms more") for kind, took in times.items()
    ]


def _calibrated(model: torch.nn.Module, batches: list[Tensor]) -> None:
    calibrate(model, batches, repair="batchnorm", max_batches=len(batches), progress=False)
