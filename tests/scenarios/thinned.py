"""Networks of the zoo as repairs meet them: half of the weights are zero, the dense network and batches are at hand."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import zoo
from torch import Tensor, nn

from reflow_lightning.calibration import Call
from reflow_lightning.layers.find import find_layers
from reflow_lightning.running.hooks import watching


def make(name: str, count: int = 3, size: int = 32) -> tuple[nn.Module, nn.Module, list[Tensor]]:
    """A network with half of its weights zero, the dense one, and batches."""
    entry = zoo.network(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = entry.build().eval()
        batches = [entry.batch(size)[0] + 0.5 for _ in range(count)]
        for module in dense.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
        with torch.no_grad():
            dense.train()
            for batch in batches:
                dense(batch)
    return thinned(copy.deepcopy(dense.eval())), dense, batches


@torch.no_grad()
def thinned(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with half of its weights set to zero at random."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_((torch.rand(parameter.shape, generator=generator) > 0.5).to(parameter))
    return model


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter == 0 for name, parameter in model.named_parameters() if parameter.ndim > 1}


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every value, so that it compares bit for bit, NaN included."""
    return {name: value.detach().float().numpy().tobytes() for name, value in model.state_dict().items()}


def plain(model: nn.Module, batch: Any) -> Any:
    return model(batch)


def outputs(model: nn.Module, batches: Iterable[Any]) -> dict[str, Tensor]:
    """What every map of the network puts out over all batches, by name, of shape (values, channels)."""
    layers = find_layers(model).known
    found: dict[str, list[Tensor]] = {}

    def take_in(name: str, call: Call) -> None:
        for affine, y in zip(layers[name].maps, layers[name].outputs(call), strict=True):
            found.setdefault(affine.name, []).append(y.movedim(1, -1).reshape(-1, affine.channels).double())

    with torch.no_grad(), watching(model, layers, take_in):
        for batch in batches:
            model(batch)
    return {name: torch.cat(values) for name, values in found.items()}


def spread(values: Tensor) -> Tensor:
    return values.std(0, unbiased=False)
