"""Choosing weights and keeping them at zero, beside what torch and Lightning offer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelPruning
from torch import nn
from torch.nn.utils import prune as torch_prune

from gpu_cases.timing import milliseconds, row
from reflow_lightning import prune

SPARSITY = 0.8


def network(device: torch.device, quick: bool) -> nn.Sequential:
    """Linear layers: 83 million weights, or few."""
    torch.manual_seed(0)
    width, depth = (64, 3) if quick else (2048, 20)
    return nn.Sequential(*(nn.Linear(width, width, device=device) for _ in range(depth)))


def _peak(function: Any, device: torch.device) -> str:
    """The most memory that a function takes beside what there was; only a GPU tells."""
    if device.type != "cuda":
        return ""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    torch.cuda.synchronize(device)
    return f", {(torch.cuda.max_memory_allocated(device) - before) / 2**20:.0f} MiB more"


def rows(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Each peer prunes a copy of its own, and is timed with it: its reparametrisation can't be done twice."""
    turns = 2 if quick else 7
    model = network(device, quick)
    weights = sum(layer.weight.numel() for layer in model)
    name = f"{weights / 1e6:.3g} M weights"

    def torchs() -> None:
        copied = copy.deepcopy(model)
        layers = [(layer, "weight") for layer in copied]
        torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=SPARSITY)

    def lightnings() -> None:
        copied = copy.deepcopy(model)
        layers = [(layer, "weight") for layer in copied]
        ModelPruning("l1_unstructured", parameters_to_prune=layers, verbose=0).apply_pruning(SPARSITY)

    def ours() -> None:
        prune(copy.deepcopy(model), SPARSITY)

    def alone() -> None:
        copy.deepcopy(model)

    copying = milliseconds(alone, device, turns)
    times = {f: milliseconds(f, device, turns) - copying for f in (ours, torchs, lightnings)}
    beside = f"`global_unstructured` {times[torchs]:.3g} ms, `ModelPruning` {times[lightnings]:.3g} ms"
    chosen = row(f"rank, mask and apply, {name}", f"{times[ours]:.3g} ms{_peak(ours, device)}", beside)
    return [chosen, _keeping(model, device, turns, name)]


def _keeping(model: nn.Sequential, device: torch.device, turns: int, name: str) -> dict[str, Any]:
    masks = prune(model, SPARSITY)
    pairs = [(layer.weight.detach(), masks[f"{i}.weight"].to(device)) for i, layer in enumerate(model)]
    kept = milliseconds(lambda: masks.apply(model), device, turns)
    bare = milliseconds(lambda: [weight * mask for weight, mask in pairs], device, turns)
    return row(f"set {name} to zero again after a step", f"{kept:.3g} ms", f"products `weight * mask` {bare:.3g} ms")
