"""What a measurement learns of a network on its way: what follows what, and whether batches hold padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from reflow_lightning.layers import OrderWatch, known_layers
from reflow_lightning.layers.padding import Padding, Valid
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.processes import together
from reflow_lightning.signal.measurement import Measurement
from reflow_lightning.signal.probe import signal_layers


def learn(
    model: nn.Module,
    first: list[Any],
    run: Forward,
    measure: Callable[[Any, Valid, Forward], None],
    measurements: Iterable[Measurement],
) -> tuple[Padding, list[Any]]:
    """Learn from the first batch, in the pass that measures it, what follows what; all processes do so together.

    Args:
        model: The network.
        first: The first batch, or none.
        run: Runs the network.
        measure: Measures a batch, by the forward pass that it is given.
        measurements: What does so, of all layers that may count; from now on of those that do.

    Returns:
        What finds the padding of batches, and the batches that must be measured once more, since they have some.
    """
    watch, masked = OrderWatch(model), Padding(model, told=False)
    with together("finding the order of the layers"):
        for batch in first:
            measure(batch, masked.of(model, batch, run), watch.around(run))
    order = watch.order()
    layers = signal_layers(dict(known_layers(model)), order)
    for measurement in measurements:
        measurement.keep(layers)
        if order.padded:
            measurement.forget()
    return Padding(model, told=order.padded), first if order.padded else []
