"""Measure the signal of a network over batches."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain, islice
from typing import Any

import torch
from torch import nn

from reflow_lightning.layers import Order, forward_order, known_layers
from reflow_lightning.running.batches import Batches, device_of, move
from reflow_lightning.running.forward import Forward, default_forward
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.labels import batch_labels
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import whole
from reflow_lightning.signal.measurement import Measurement
from reflow_lightning.signal.probe import matching_modules, signal_layers
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
    order: Order | None = None,
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
        order: What follows what, if it was learned before; see `learn_order`. Otherwise the first batch is run once
            more to learn it, unless there are patterns.
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
    names = None if layers is None else matching_modules(model, layers)
    run = forward or default_forward
    moved = Batches(batches, max_batches, device_of(model), task="signal measurement", progress=progress)
    with ExitStack() as stack:
        for network in (model, reference or model):
            stack.enter_context(only_training(network, ()))
        stack.enter_context(whole(model))
        if reference is not None:
            stack.enter_context(whole(reference))
        stack.enter_context(isolated_rng())
        stack.enter_context(together("signal measurement"))
        source = iter(moved)
        first = list(islice(source, 1))
        if names is None:
            names = _default_layers(model, first, run, order)
        if reference is not None and (missing := set(names) - dict(reference.named_modules()).keys()):
            raise ValueError(
                f"reference={type(reference).__name__} lacks {sorted(missing)}: pass the dense copy of the model"
            )
        dense = None if reference is None else Measurement(reference, names, comparable=True)
        measurement = Measurement(model, names, reference=dense)
        for batch in chain(first, source):
            if reference is not None and dense is not None:
                dense.pooled.clear()  # the batch before is done with
                with dense.batch(reference):
                    run(reference, move(batch, device_of(reference)))
            with measurement.batch(model, batch_labels(batch)):
                run(model, batch)
    moved.check()
    return measurement.report()


@torch.no_grad()
def learn_order(model: nn.Module, batches: Iterable[Any], *, forward: Forward | None = None) -> Order:
    """Learn from a forward pass on the first batch what follows what, for `measure_signal`; nothing is changed.

    Where processes run together, call it on all of them.

    Args:
        model: Any module.
        batches: Any iterable of batches.
        forward: See `reflow_lightning.calibrate`.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> learn_order(model, [torch.randn(32, 4)]).followers
        {'0': '1'}
    """
    moved = [move(batch, device_of(model)) for batch in islice(batches, 1)]
    with isolated_rng(), only_training(model, ()), whole(model):
        return forward_order(model, moved, forward or default_forward)


def _default_layers(model: nn.Module, batches: Iterable[Any], forward: Forward, order: Order | None) -> list[str]:
    known = dict(known_layers(model))
    return signal_layers(known, forward_order(model, batches, forward) if order is None else order)


class Profile:
    """The signal of one network as it changes, always on the same batches; what is measured first is the reference.

    Args:
        batches: Batches on the network's device.
        forward: Runs it on one.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> profile = Profile([torch.randn(32, 4)], default_forward)
        >>> profile.measure(model, "dense")
        >>> _ = nn.init.zeros_(model[0].weight)
        >>> profile.measure(model, "pruned")
        >>> profile.reports["pruned"].rows[0].dead
        1.0
    """

    def __init__(self, batches: Iterable[Any], forward: Forward) -> None:
        self.reports: dict[str, SignalReport] = {}
        self._batches = list(batches)
        self._forward = forward
        self._layers: list[str] = []
        self._reference: Measurement | None = None

    @torch.no_grad()
    def measure(self, model: nn.Module, label: str) -> None:
        """Measure the network as it is now."""
        first = self._reference is None
        with isolated_rng(), only_training(model, ()), whole(model), together("signal measurement"):
            if first:
                self._layers = _default_layers(model, self._batches, self._forward, None)
            measurement = Measurement(model, self._layers, reference=self._reference, comparable=first)
            for batch in self._batches:
                with measurement.batch(model, batch_labels(batch)):
                    self._forward(model, batch)
        if first:
            self._reference = measurement
        self.reports[label] = measurement.report()
