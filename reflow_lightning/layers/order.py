"""In which order a forward pass reaches layers, and which of them hand their output straight to a BatchNorm layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.layers.find import known_layers
from reflow_lightning.layers.layer import Layer
from reflow_lightning.running.compat.torch import BatchNorm, times_written
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching
from reflow_lightning.running.processes import gather, together


@dataclass(frozen=True)
class Order:
    """What a forward pass told.

    Attributes:
        calls: How often it called each layer, in the order in which it reached them.
        handed_on: The BatchNorm layers that get the outputs of a layer as they are, in any layout, one for each call,
            by the name of the layer. A layer of which one output goes elsewhere is not in it.

    Example:
        >>> Order({"a": 1, "norm": 1}, {"a": ("norm",)}).followers
        {'a': 'norm'}
    """

    calls: dict[str, int] = field(default_factory=dict)
    handed_on: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def followers(self) -> dict[str, str]:
        """The BatchNorm layer that gets every output of a layer, and nothing else, by the name of the layer."""
        return {
            name: norms[0]
            for name, norms in self.handed_on.items()
            if len(set(norms)) == 1 and self.calls[norms[0]] == len(norms)
        }


class _Output:
    """An output of a layer as it was when the layer gave it."""

    def __init__(self, values: Tensor, channel_dim: int) -> None:
        self.values = values
        self.version = times_written(values)
        self.channel_dim = channel_dim

    def is_input(self, given: Any) -> bool:
        """Whether a BatchNorm layer gets it, channel for channel, since no activation has changed it in place."""
        values = self.values
        if not isinstance(given, Tensor) or given.is_inference() or min(given.ndim, values.ndim) < 2:
            return False
        same_memory = given.data_ptr() == values.data_ptr() and given.numel() == values.numel()
        dim = self.channel_dim % values.ndim
        same_channels = given.shape[1] == values.shape[dim] and (
            given.shape[1] == 1 or given.stride(1) == values.stride(dim)
        )
        return same_memory and same_channels and times_written(given) == self.version


class OrderWatch:
    """Learns the order of a model's layers from the first forward pass that is run anyway.

    Args:
        model: Any module.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)).eval()
        >>> watch = OrderWatch(model)
        >>> _ = watch.around(lambda network, x: network(x))(model, torch.ones(2, 2))
        >>> watch.order().calls, watch.order().followers
        ({'0': 1, '1': 1, '3': 1}, {'0': '1'})
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers = dict(known_layers(model))
        self._found: Order | None = None

    def around(self, forward: Forward) -> Forward:
        """The same forward pass, which is watched until it has run once to its end."""

        def watched(model: nn.Module, batch: Any) -> Any:
            if self._found is not None or model is not self._model:
                return forward(model, batch)
            seen = _Seen(self._layers)
            with watching(model, self._layers, seen.take_in):
                output = forward(model, batch)
            self._found = seen.order()
            return output

        return watched

    def order(self) -> Order:
        """What was seen; the same on all processes, which all must call this, those without batches included."""
        found = self._found or Order()
        return next((of_rank for of_rank in gather(found) if of_rank.calls), found)


class _Seen:
    """The calls of one forward pass."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        self._layers = layers
        self._calls: Counter[str] = Counter()
        self._handed_on: dict[str, list[str]] = {}
        self._outputs: list[tuple[str, _Output]] = []

    def take_in(self, name: str, call: Call) -> None:
        """Note a call, and which outputs of before it was given."""
        self._calls[name] += 1
        layer = self._layers[name]
        if isinstance(layer.module, BatchNorm):
            given = call.argument(0, "input")
            after = next((pair for pair in reversed(self._outputs) if pair[1].is_input(given)), None)
            if after is not None:
                self._handed_on.setdefault(after[0], []).append(name)
        if not layer.is_norm and isinstance(call.output, Tensor) and not call.output.is_inference():
            self._outputs.append((name, _Output(call.output, layer.channel_dim)))

    def order(self) -> Order:
        """What was seen."""
        whole = {name: tuple(norms) for name, norms in self._handed_on.items() if len(norms) == self._calls[name]}
        return Order(dict(self._calls), whole)


def forward_order(model: nn.Module, batches: Iterable[Any], forward: Forward) -> Order:
    """Run the model on the first batch, to learn the order of its layers; on all processes together.

    Args:
        model: Any module.
        batches: Batches on the model's device.
        forward: Runs the model on a batch.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)).eval()
        >>> forward_order(model, [torch.ones(2, 2)], lambda network, x: network(x)).followers
        {'0': '1'}
    """
    watch = OrderWatch(model)
    with ExitStack() as stack:
        stack.enter_context(together("finding the order of the layers"))
        stack.enter_context(torch.inference_mode(mode=False))  # whose tensors do not tell whether they were changed
        stack.enter_context(torch.no_grad())
        for batch in batches:
            watch.around(forward)(model, batch)
            break
    return watch.order()
