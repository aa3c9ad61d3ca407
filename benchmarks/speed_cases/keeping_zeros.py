"""Zeros that are kept through a training: what that costs a step."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from paired import Times, by_turns
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from reflow_lightning import prune
from reflow_lightning.pruning.keeping import ZeroKeeper
from speed_cases.floors import bytes_per_second
from speed_cases.row import row

SMALL = "161 tensors, most of them small: the tensors that stay in the cache cost the others next to nothing"
TITLE = "Keeping zeros through a training"
SPARSITY = 0.9
TURNS = 15


def _reparametrised(weights: list[Tensor], masks: list[Tensor]) -> list[nn.ParameterList]:
    """Modules whose weights torch computes anew from a mask in each forward pass."""
    modules = [nn.ParameterList([weight.clone()]) for weight in weights]
    for module, mask in zip(modules, masks, strict=True):
        torch_prune.custom_from_mask(module, "0", mask)
    return modules


def _forward_and_backward(modules: list[nn.ParameterList], gradients: list[Tensor]) -> None:
    """What the reparametrisation adds to the two passes of a step."""
    for module, gradient in zip(modules, gradients, strict=True):
        for hook in module._forward_pre_hooks.values():
            hook(module, ())
        getattr(module, "0").backward(gradient)
        getattr(module, "0_orig").grad = None


def _timed(model: nn.Module) -> tuple[Times, int]:
    masks = prune(model, SPARSITY, min_kept=0.001)
    weights = [parameter.detach() for parameter in masks.parameters(model)]
    gradients = [torch.randn_like(weight) for weight in weights]
    for parameter, gradient in zip(masks.parameters(model), gradients, strict=True):
        parameter.grad = gradient.clone()
    keeper = ZeroKeeper()
    keeper.bind(model, masks)
    floats = [mask.float() for mask in masks.values()]
    modules = _reparametrised(weights, list(masks.values()))
    source, target = torch.rand(2, sum(weight.numel() for weight in weights))
    functions = {
        "copy": lambda: target.copy_(source),
        "ours": keeper.set_zeros,
        "gradients": keeper.mask_gradients,
        "floats": lambda: torch._foreach_mul_(weights, floats),
        "torch": lambda: _forward_and_backward(modules, gradients),
    }
    return by_turns(functions, TURNS), len(source)


def _rows(name: str, model: nn.Module) -> list[dict[str, Any]]:
    times, count = _timed(model)
    floor = 9 * count / bytes_per_second()
    floor_text = f"{floor * 1e3:.0f} ms: reads and writes {count / 1e6:.1f} M fp32, reads a byte each"
    ours = times.median("ours")
    all_in = times.ratio("ours", "copy") * 8 / 9  # a copy moves 8 bytes a weight
    against = times.ratio("ours", "torch")
    return [
        row(
            f"Zeros kept after a step, {name} (gradients are not looked at)",
            f"{ours * 1e3:.0f} ms",
            f"{times.spread('ours', 'torch')}; {all_in:.2f} x floor",
            f"torch.nn.utils.prune, forward and backward: {times.median('torch') * 1e3:.0f} ms",
            floor_text,
            "<= 0.25; <= 1.2 x floor",
            against <= 0.25 and all_in <= 1.2,
            "" if against <= 0.25 else f"{against / 0.25:.1f} x the target: {SMALL}",
        ),
        row(
            f"The same, {name}",
            f"{ours * 1e3:.0f} ms",
            times.spread("ours", "floats"),
            f"_foreach_mul_ of float masks, 4 bytes a weight: {times.median('floats') * 1e3:.0f} ms",
            floor_text,
            "<= 1.2, at a byte a weight",
            times.ratio("ours", "floats") <= 1.2,
            "" if times.ratio("ours", "floats") <= 1.2 else SMALL,
        ),
        row(
            f"Gradients too, where they are clipped or looked at, {name}",
            f"{(ours + times.median('gradients')) * 1e3:.0f} ms",
            times.spread("gradients", "ours"),
            f"the weights alone: {ours * 1e3:.0f} ms",
            f"{2 * floor * 1e3:.0f} ms: twice the above",
            "<= 1.2",
            times.ratio("gradients", "ours") <= 1.2,
        ),
    ]


def rows() -> list[dict[str, Any]]:
    """ResNet-50, and one layer of 103 M weights."""
    wide = nn.Sequential(nn.Linear(25088, 4096, bias=False))
    return _rows("ResNet-50", torchvision.models.resnet50()) + _rows("the first linear layer of VGG-16", wide)
