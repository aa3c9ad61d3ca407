"""Measure the signal of a network over batches."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from reflow_lightning.running.batches import Batches, device_of, move
from reflow_lightning.running.forward import Forward, default_forward
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.labels import batch_labels
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import whole
from reflow_lightning.signal.measurement import Measurement
from reflow_lightning.signal.probe import signal_layers
from reflow_lightning.signal.report import SignalReport


@torch.no_grad()
def measure_signal(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    reference: nn.Module | None = None,
    max_batches: int = 10,
    forward: Forward | None = None,
    layers: Patterns | None = None,
    progress: bool = True,
) -> SignalReport:
    """Measure the signal at the layers of a network in eval mode; nothing in it is changed.

    Where processes run together (`torch.distributed`), call it on all of them, each with its own batches or none: the
    report covers the union, and if one fails, all raise. A model under `fully_shard` is held whole meanwhile.

    Args:
        model: Any module.
        batches: Any iterable of batches. If they hold the samples' classes (second of a tuple or list, or ``"y"``,
            ``"label"``, ``"labels"``, ``"target"`` or ``"targets"`` of a dict), the rows tell how well the signal
            separates them.
        reference: The dense network, with layers of the same names: adds ratios of variance, the cosine and CKA to it.
        max_batches: At most so many batches.
        forward: ``(model, batch) -> anything``; by default as in `reflow_lightning.calibrate`.
        layers: Glob patterns on module names. Default: BatchNorm layers, and weighted layers that none follows.
        progress: Show a bar in a terminal if it takes more than two seconds.

    Returns:
        One row a layer, in forward order.

    Raises:
        ValueError: If there is no batch or no layer, or the reference has other layers.
        TypeError: If the default forward fails on a batch.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> report = measure_signal(model, [torch.randn(32, 4)], reference=model, max_batches=1)
        >>> [(row.name, round(row.cosine, 3), round(row.cka, 3)) for row in report.rows]
        [('1', 1.0, 1.0), ('3', 1.0, 1.0)]
    """
    names = signal_layers(model, layers)
    if reference is not None and (missing := set(names) - dict(reference.named_modules()).keys()):
        raise ValueError(
            f"reference={type(reference).__name__} lacks {sorted(missing)}: pass the dense copy of the model"
        )
    run = forward or default_forward
    dense = None if reference is None else Measurement(reference, names, comparable=True)
    measurement = Measurement(model, names, reference=dense)
    moved = Batches(batches, max_batches, device_of(model), task="signal measurement", progress=progress)
    with ExitStack() as stack:
        for network in (model, reference or model):
            stack.enter_context(only_training(network, ()))
        stack.enter_context(whole(model))
        if reference is not None:
            stack.enter_context(whole(reference))
        stack.enter_context(isolated_rng())
        stack.enter_context(together("signal measurement"))
        for batch in moved:
            if reference is not None and dense is not None:
                dense.pooled.clear()  # the batch before is done with
                with dense.batch(reference):
                    run(reference, move(batch, device_of(reference)))
            with measurement.batch(model, batch_labels(batch)):
                run(model, batch)
    moved.check()
    return measurement.report()


class Profile:
    """The signal of one network as it changes, always on the same batches; what is measured first is the reference.

    Args:
        model: The network, which is changed between two measurements.
        batches: Batches on its device.
        forward: Runs it on one.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> profile = Profile(model, [torch.randn(32, 4)], default_forward)
        >>> profile.measure("dense")
        >>> _ = nn.init.zeros_(model[0].weight)
        >>> profile.measure("pruned")
        >>> profile.reports["pruned"].rows[0].dead
        1.0
    """

    def __init__(self, model: nn.Module, batches: Iterable[Any], forward: Forward) -> None:
        self.reports: dict[str, SignalReport] = {}
        self._model = model
        self._batches = list(batches)
        self._forward = forward
        self._layers = signal_layers(model)
        self._reference: Measurement | None = None

    @torch.no_grad()
    def measure(self, label: str) -> None:
        """Measure the network as it is now."""
        first = self._reference is None
        measurement = Measurement(self._model, self._layers, reference=self._reference, comparable=first)
        with isolated_rng(), only_training(self._model, ()), whole(self._model), together("signal measurement"):
            for batch in self._batches:
                with measurement.batch(self._model, batch_labels(batch)):
                    self._forward(self._model, batch)
        if first:
            self._reference = measurement
        self.reports[label] = measurement.report()
