"""In which order a forward pass reaches layers, and which of them hand their output straight to a BatchNorm layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.layers.find import known_layers
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.padding import told
from reflow_lightning.running.attention_mask import Around
from reflow_lightning.running.compat.torch import BatchNorm, times_written
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching
from reflow_lightning.running.processes import gather, together

_LOOKED_AT = 8
"""So many batches are run at most, until layers are found that not every batch reaches."""

_HELD = 8
"""So many outputs are remembered with their values: a BatchNorm layer comes soon, and activations take memory."""


@dataclass(frozen=True)
class Order:
    """What a forward pass told.

    Attributes:
        calls: How often it called each layer, in the order in which it reached them.
        handed_on: The BatchNorm layers that get the outputs of a layer as they are, in any layout, by the name of the
            layer. A layer is in it only if each of its outputs reaches such a layer.
        padded: Whether a layer is told which positions are padding; see `Padding`.

    Example:
        >>> Order({"a": 1, "norm": 1}, {"a": ("norm",)}).followers
        {'a': 'norm'}
    """

    calls: dict[str, int] = field(default_factory=dict)
    handed_on: dict[str, tuple[str, ...]] = field(default_factory=dict)
    padded: bool = False

    @property
    def followers(self) -> dict[str, str]:
        """The BatchNorm layer that gets every output of a layer, and nothing else, by the name of the layer."""
        givers = Counter(norm for norms in self.handed_on.values() for norm in set(norms))
        return {
            name: norms[0]
            for name, norms in self.handed_on.items()
            if len(set(norms)) == 1 == givers[norms[0]] and self.calls[norms[0]] == len(norms) == self.calls[name]
        }


class _Output:
    """An output of a layer as it was when the layer gave it, and the BatchNorm layers that have got it since."""

    def __init__(self, layer: str, values: Tensor, channel_dim: int) -> None:
        self.layer = layer
        self.norms: list[str] = []
        self.version = times_written(values)  # None in inference mode, where a change in place can't be told
        self.values: Tensor | None = values
        self.channel_dim = channel_dim

    def is_input(self, given: Any) -> bool:
        """Whether a BatchNorm layer gets it, channel for channel: the tensor, a view of it or a copy."""
        values = self.values
        if values is None or not isinstance(given, Tensor) or min(given.ndim, values.ndim) < 2:
            return False
        if times_written(values) != self.version:  # an activation has changed it in place
            return False
        dim = self.channel_dim % values.ndim
        if given.numel() != values.numel() or given.shape[1] != values.shape[dim]:
            return False
        if given.data_ptr() == values.data_ptr():
            return given.shape[1] == 1 or given.stride(1) == values.stride(dim)
        moved = values.movedim(dim, 1)
        return given.shape == moved.shape and torch.equal(given, moved)


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
        self.found = Order()

    def around(self, forward: Forward) -> Forward:
        """The same forward pass, which is watched until it has run once to its end."""

        def watched(model: nn.Module, batch: Any) -> Any:
            if self.found.calls or model is not self._model:
                return forward(model, batch)
            seen = _Seen(self._layers)
            with watching(model, self._layers, seen.take_in):
                output = forward(model, batch)
            self.found = seen.order()
            return output

        return Around(forward, watched)

    def order(self) -> Order:
        """What was seen; the same on all processes, which all must call this, those without batches included."""
        return _of_all(self.found)


class _Seen:
    """The calls of one forward pass."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        self._layers = layers
        self._calls: Counter[str] = Counter()
        self._outputs: list[_Output] = []
        self._padded = False

    def take_in(self, name: str, call: Call) -> None:
        """Note a call, and which output of before it was given."""
        self._calls[name] += 1
        layer = self._layers[name]
        self._padded = self._padded or bool(told(layer.module, call))
        if isinstance(layer.module, BatchNorm):
            given = call.argument(0, "input")
            before = next((output for output in reversed(self._outputs[-_HELD:]) if output.is_input(given)), None)
            if before is not None:
                before.norms.append(name)
        if not layer.is_norm:
            if len(self._outputs) >= _HELD:
                self._outputs[-_HELD].values = None  # or the first batch would hold all activations at once
            values = call.output if isinstance(call.output, Tensor) else None
            output = _Output(name, torch.empty(0) if values is None else values, layer.channel_dim)
            output.values = values
            self._outputs.append(output)

    def order(self) -> Order:
        """What was seen."""
        by_layer: dict[str, list[_Output]] = {}
        for output in self._outputs:
            by_layer.setdefault(output.layer, []).append(output)
        handed_on = {
            name: tuple(norm for output in outputs for norm in output.norms)
            for name, outputs in by_layer.items()
            if all(output.norms for output in outputs)
        }
        return Order(dict(self._calls), handed_on, self._padded)


def forward_order(model: nn.Module, batches: Iterable[Any], forward: Forward, wanted: Collection[str] = ()) -> Order:
    """Run the model on the first batch, to learn the order of its layers; on all processes together.

    Args:
        model: Any module.
        batches: Batches on the model's device.
        forward: Runs the model on a batch.
        wanted: Layers that shall be found. Where the first batch does not reach them all, as with a head for each task,
            some more are run.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)).eval()
        >>> forward_order(model, [torch.ones(2, 2)], lambda network, x: network(x)).followers
        {'0': '1'}
    """
    found = Order()
    with ExitStack() as stack:
        stack.enter_context(together("finding the order of the layers"))
        stack.enter_context(torch.inference_mode(mode=False))  # whose tensors do not tell whether they were changed
        stack.enter_context(torch.no_grad())
        for batch in islice(batches, _LOOKED_AT):
            watch = OrderWatch(model)
            watch.around(forward)(model, batch)
            found = merged(found, watch.found)
            if found.calls.keys() >= set(wanted):
                break
    return _of_all(found)


def _of_all(found: Order) -> Order:
    """What the processes have seen together."""
    order: Order = reduce(merged, gather(found))
    return order


def merged(first: Order, then: Order) -> Order:
    """What two forward passes told that may have taken different ways.

    A layer that the first has not reached stands before the layer that follows it in the other.

    Example:
        >>> merged(Order({"a": 1, "head": 1}), Order({"b": 1, "head": 2})).calls
        {'a': 1, 'b': 1, 'head': 2}
    """
    names, place = list(first.calls), len(first.calls)
    for name in reversed(then.calls):
        if name in first.calls:
            place = names.index(name)
        else:
            names.insert(place, name)
    calls = Counter(first.calls) | Counter(then.calls)
    handed_on = {
        name: norms
        for name, norms in (then.handed_on | first.handed_on).items()
        if all(name in order.handed_on for order in (first, then) if name in order.calls)
    }
    return Order({name: calls[name] for name in names}, handed_on, first.padded or then.padded)
