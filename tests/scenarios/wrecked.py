"""Networks of the zoo as `collapse` meets them, with dead parts, and comparisons of what it makes of them."""

from __future__ import annotations

import copy
from typing import Any

import torch
import zoo
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.flop_counter import FlopCounterMode
from zoo.blocks import Chain

from reflow_lightning.collapse import collapse_report
from reflow_lightning.collapse.edits import Row
from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.graph.tracing import trace
from reflow_lightning.collapse.operators.affine import width
from reflow_lightning.collapse.passes.merging import fold_batchnorm
from reflow_lightning.running.difference import relative_difference

Inputs = tuple[Any, ...]


def shake(model: nn.Module) -> None:
    """Give BatchNorm layers other parameters and statistics than fresh ones have."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)


def build(name: str, seed: int = 0) -> nn.Module:
    """A network of the zoo in eval mode, with BatchNorm statistics other than a fresh one has."""
    torch.manual_seed(seed)
    model = zoo.network(name).build()
    shake(model)
    return model.eval()


def inputs_for(name: str, samples: int = 2, seed: int = 1) -> Inputs:
    return zoo.network(name).batch(samples, torch.Generator().manual_seed(seed))


PRUNINGS = ("rows", "columns", "weights", "layers", "nearly all", "nothing")


def wreck(model: nn.Module, pruning: str, seed: int = 0) -> nn.Module:
    """Set rows, columns, single weights or all weights of some layers to zero; biases at random."""
    torch.manual_seed(seed)
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, _ConvNd)) and "weight" in m._parameters]
    with torch.no_grad():
        for layer in layers:
            weight = rows_of(layer)
            if pruning == "rows":
                weight[torch.rand(len(weight)) < 0.5] = 0
            elif pruning == "columns":
                weight[:, torch.rand(weight.shape[1]) < 0.5] = 0
            elif pruning == "weights":
                weight[torch.rand(weight.shape) < 0.7] = 0
            elif pruning == "nearly all":
                weight[torch.rand(weight.shape) < 0.98] = 0
            elif pruning == "layers" and torch.rand(()) < 0.4:
                weight.zero_()
            if layer.bias is not None and torch.rand(()) < 0.3:
                layer.bias.zero_()
    return model


def rows_of(layer: nn.Module) -> torch.Tensor:
    """A view of the weight with the output channels in dimension 0; of one group, if a convolution is transposed."""
    return layer.weight.transpose(0, 1) if isinstance(layer, _ConvTransposeNd) else layer.weight


def same(model: nn.Module, collapsed: nn.Module, inputs: Inputs) -> float:
    """The largest relative difference of the outputs."""
    with torch.no_grad():
        return relative_difference(model(*copy.deepcopy(inputs)), collapsed(*copy.deepcopy(inputs)))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, inputs: Inputs) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() // 2


def folded(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The network with BatchNorm folded, and nothing else."""
    analysis = Analysis(trace(model, inputs), [inputs])
    fold_batchnorm(analysis.steps, analysis.values)
    return analysis.traced


def widths(model: nn.Module) -> dict[str, int]:
    """The number of output channels by layer."""
    return {name: width(m) for name, m in model.named_modules() if isinstance(m, (nn.Linear, _ConvNd))}


def chain(kinds: list[str], flat: bool, pruning: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = Chain(kinds, flat)
    shake(model)
    return wreck(model, pruning, seed).eval()


def refusals(collapsed: nn.Module) -> list[Row]:
    """The steps that were tried and not taken."""
    return [row for row in collapse_report(collapsed).left if "does not fit" in row.why or "would change" in row.why]
