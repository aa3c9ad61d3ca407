"""In which order a forward pass reaches layers, and which of them hand their output straight to a BatchNorm layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from reflow_lightning.layers.batchnorm import batchnorm_layers
from reflow_lightning.running.compat.torch import times_written
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching
from reflow_lightning.running.processes import gather, together


class Order(NamedTuple):
    """What a forward pass told.

    Attributes:
        calls: How often it called each layer, in the order in which it reached them.
        followers: The BatchNorm layer that gets every output of a layer as it is, and nothing else, by the name of that
            layer.
    """

    calls: dict[str, int]
    followers: dict[str, str]


def forward_order(model: nn.Module, layers: Iterable[str], batches: Iterable[Any], forward: Forward) -> Order:
    """Run the model on the first batch; the same on all processes, those without batches included.

    Args:
        model: Any module.
        layers: Names of the layers to look for; BatchNorm layers may be among them.
        batches: Batches on the model's device.
        forward: Runs the model on a batch.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)).eval()
        >>> forward_order(model, ["0", "3"], [torch.ones(2, 2)], lambda network, x: network(x))
        Order(calls={'0': 1, '3': 1}, followers={'0': '1'})
    """
    wanted, norms = set(layers), batchnorm_layers(model)
    calls: Counter[str] = Counter()
    norm_calls: Counter[str] = Counter()
    handed_on: Counter[tuple[str, str]] = Counter()
    outputs: dict[str, tuple[Any, int | None]] = {}

    def take_in(name: str, call: Call) -> None:
        if name in norms:
            norm_calls[name] += 1
            given = call.argument(0, "input")
            handed_on.update((before, name) for before, output in outputs.items() if _same(given, *output))
        if name in wanted:
            calls[name] += 1
            outputs[name] = call.output, _version(call.output)

    with together("finding the order of the layers"):
        for batch in batches:
            with watching(model, wanted | norms.keys(), take_in):
                forward(model, batch)
            break
    followers = {
        before: norm for (before, norm), times in handed_on.items() if times == calls[before] == norm_calls[norm]
    }
    found = Order(dict(calls), followers)
    return next((of_rank for of_rank in gather(found) if of_rank.calls), found)


def _version(output: Any) -> int | None:
    """How often a tensor was changed in place; ``None`` if that is not known."""
    return times_written(output) if isinstance(output, Tensor) else None


def _same(given: Any, output: Any, version: int | None) -> bool:
    """Whether an input is an output of before, which no activation has changed in place since."""
    return given is output and version is not None and version == _version(given)
