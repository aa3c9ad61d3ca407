"""What a pruned network gains: 2:4 in half precision on sparse tensor cores, and fewer channels by `collapse`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.sparse import to_sparse_semi_structured

from gpu_cases.timing import milliseconds, row
from reflow_lightning import collapse, prune
from reflow_lightning.cost import measure_latency
from reflow_lightning.experiments.models.resnet import ResNet


def rows(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """2:4 runs on CUDA alone; a CPU is told so."""
    return [_semi_structured(device, quick), _collapsed(device, quick)]


def _semi_structured(device: torch.device, quick: bool) -> dict[str, Any]:
    what = "2:4 by `to_sparse_semi_structured`, float16"
    if device.type != "cuda":
        return row(what, "needs CUDA", "")
    torch.manual_seed(0)
    width, turns = (256, 3) if quick else (4096, 20)
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).half().to(device).eval()
    prune(model, 0.5, pattern="2:4")
    inputs = torch.randn(width, width, device=device, dtype=torch.float16)
    with torch.inference_mode():
        expected = model(inputs)
        dense = milliseconds(lambda: model(inputs), device, turns)
        for layer in (model[0], model[2]):
            layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight))
        torch.testing.assert_close(model(inputs), expected, rtol=1e-2, atol=1e-2)
        sparse = milliseconds(lambda: model(inputs), device, turns)
    return row(f"{what}, two layers of {width}", f"{sparse:.3g} ms, {dense / sparse:.2f} x", f"dense {dense:.3g} ms")


def _collapsed(device: torch.device, quick: bool) -> dict[str, Any]:
    """Half of the channels within each block are dead."""
    torch.manual_seed(0)
    model = ResNet(1 if quick else 3, width=16 if quick else 64).to(device).eval()
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d) and name.endswith("conv1") and "." in name:
                layer.weight[: layer.out_channels // 2] = 0
    example = torch.randn(8 if quick else 256, 3, 32, 32, device=device)
    smaller = collapse(model, example)
    latency = measure_latency(model, smaller, example, rounds=3 if quick else 20)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, smaller)]
    result = f"{1e3 * latency.after:.3g} ms, {latency.speedup:.2f} x"
    return row(f"`collapse`, {sizes[0]:,} to {sizes[1]:,} parameters", result, f"before {1e3 * latency.before:.3g} ms")
