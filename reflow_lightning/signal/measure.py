"""Measure the signal of a network over batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from typing import Any

import torch
from torch import nn

from reflow_lightning.layers import Order, forward_order, known_layers
from reflow_lightning.layers.padding import Padding, Valid
from reflow_lightning.running.alike import Alike
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.attention_mask import Around
from reflow_lightning.running.batches import Batches, device_of, move
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.labels import batch_labels
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.processes import together
from reflow_lightning.running.units import runnable
from reflow_lightning.signal.learning import learn
from reflow_lightning.signal.measurement import Measurement
from reflow_lightning.signal.metrics import HISTOGRAM, METRICS, WITH_REFERENCE, check_metrics
from reflow_lightning.signal.probe import candidates, matching_modules, signal_layers
from reflow_lightning.signal.report import SignalReport


@outside_inference()
@torch.no_grad()
def measure_signal(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    reference: nn.Module | None = None,
    max_batches: int = 10,
    forward: AnyForward | None = None,
    layers: Patterns | None = None,
    order: Order | None = None,
    metrics: Sequence[str] = METRICS,
    progress: bool = True,
    told: set[str] | None = None,
) -> SignalReport:
    """Measure the signal at the layers of a network in eval mode; nothing in it is changed.

    Where processes run together (`torch.distributed`), call it on all of them, each with its own batches or none: the
    report covers the union, and if one fails, all raise. A model under `fully_shard` is held whole one unit at a time.

    Padding does not count where layers are told of it: by a `PackedSequence`, by ``key_padding_mask`` or
    ``padding_idx``, or by an ``attention_mask`` in the batch. A layer that can't be measured is left out, and one that
    gets other rows of a batch than in the reference, as an expert does, is measured without cosine and CKA; a warning
    names them.

    Args:
        model: Any module.
        batches: Any iterable of batches. If they hold the samples' classes (second of a tuple or list, or ``"y"``,
            ``"label"``, ``"labels"``, ``"target"`` or ``"targets"`` of a dict), the rows tell how well the signal
            separates them.
        reference: The dense network, with layers of the same names: adds ratios of variance, the cosine and CKA to it.
        max_batches: At most so many batches.
        forward: ``(model, batch) -> anything``; by default as in `reflow_lightning.calibrate`.
        layers: Glob patterns on module names. Default: BatchNorm layers, and weighted layers that none follows.
        order: What follows what, if it was learned before; see `learn_order`. Otherwise it is learned from the first
            batch, unless there are patterns.
        metrics: What to measure: fields of `LayerSignal`, and ``"rectifier_entropy"`` and ``"rectifier_saturated"`` for
            `SignalReport.rectifiers`. By default all that the reference and the batches allow. Nothing else is
            computed, and its fields are ``None``; mean, variances and dead channels are always there.
            ``"histogram"``, which is no default, asks for `SignalReport.histograms`.
            ``("variance",)`` is the cheapest, and ``"cka"``, ``"cosine"`` and the rectifiers are the dearest.
        progress: Show a bar in a terminal if it takes more than two seconds.
        told: Layers that a warning has named before, in another measurement; those that are named now are added.

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
    metrics = check_metrics(metrics, (*METRICS, HISTOGRAM))
    compared = WITH_REFERENCE.intersection(metrics)
    if reference is None and compared and metrics != METRICS:
        raise ValueError(f"metrics={metrics!r} compare with the dense network: pass reference=..., a copy of it")
    reference = reference if compared else None  # it need not run
    names = None if layers is None else matching_modules(model, layers)
    given = as_forward(forward)
    moved = Batches(batches, max_batches, device_of(model), task="signal measurement", progress=progress)
    run = moved.alike(given)
    run_reference = moved.alike(Around(given, lambda network, batch: given(network, move(batch, device_of(network)))))
    with ExitStack() as stack:
        model = stack.enter_context(runnable(model))
        reference = None if reference is None else stack.enter_context(runnable(reference))
        for network in (model,) if reference is None else (model, reference):
            stack.enter_context(only_training(network, ()))
        stack.enter_context(isolated_rng())
        stack.enter_context(together("signal measurement"))
        source = iter(moved)
        learns = names is None and order is None
        first = list(islice(source, 1)) if learns else []
        found_in = set(dict(reference.named_modules())) if reference is not None else set()
        if names is None:
            known = dict(known_layers(model))
            names = candidates(known)
            if reference is not None and not found_in.issuperset(names):  # it may be another network: do not run it
                order, learns = order or forward_order(model, first, run), False
            names = names if order is None else signal_layers(known, order)
        if reference is not None and (missing := sorted(set(names) - found_in)):
            raise ValueError(f"reference={type(reference).__name__} lacks {missing}: pass the dense copy of the model")
        dense = None if reference is None else Measurement(reference, names, comparable=True, metrics=metrics)
        measurement = Measurement(model, names, reference=dense, metrics=metrics)
        measurements = [measurement] if dense is None else [dense, measurement]
        for each in measurements:
            stack.enter_context(each.listening())

        def measure(batch: Any, valid: Valid, run: Forward = run) -> None:
            if reference is not None and dense is not None:
                dense.seen.clear()  # the batch before is done with
                with dense.batch(valid=valid):
                    run_reference(reference, batch)
            with measurement.batch(batch_labels(batch), valid):
                run(model, batch)

        def check() -> None:
            for name, what in measurement.other_channels.items():
                raise ValueError(f"layer '{name}' {what}: pass the dense copy of the model")

        padding = Padding(model, told=order is None or order.padded)
        if learns:
            padding, first = learn(model, first, run, measure, measurements)
            check()
        for batch in chain(first, source):
            measure(batch, padding.of(model, batch, run))
            check()
    moved.check()
    return measurement.report(told)


@outside_inference()
@torch.no_grad()
def learn_order(model: nn.Module, batches: Iterable[Any], *, forward: AnyForward | None = None) -> Order:
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
    moved = Batches(batches, 1, device_of(model), task="learning the order")
    with isolated_rng(), runnable(model) as network, only_training(network, ()):
        return forward_order(network, moved, moved.alike(as_forward(forward)))


class Profile:
    """The signal of one network as it changes, always on the same batches; what is measured first is the reference.

    Args:
        batches: Batches on the network's device.
        forward: Runs it on one.
        metrics: What to measure; see `measure_signal`.

    Example:
        >>> from reflow_lightning.running.forward import default_forward
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> profile = Profile([torch.randn(32, 4)], default_forward)
        >>> profile.measure(model, "dense")
        >>> _ = nn.init.zeros_(model[0].weight)
        >>> profile.measure(model, "pruned")
        >>> profile.reports["pruned"].rows[0].dead
        1.0
    """

    def __init__(self, batches: Iterable[Any], forward: Forward, metrics: Sequence[str] = METRICS) -> None:
        self.reports: dict[str, SignalReport] = {}
        self._batches = list(batches)
        self._alike = Alike()
        self._forward = self._alike.forward(forward)
        self._layers: list[str] = []
        self._reference: Measurement | None = None
        self._valid: list[Valid] = []
        self._told: set[str] = set()
        self._metrics = metrics

    @outside_inference()
    @torch.no_grad()
    def measure(self, model: nn.Module, label: str) -> None:
        """Measure the network as it is now.

        Raises:
            NothingToMeasureError: If no layer of it can be measured.
        """
        with runnable(model) as network:
            self._measure(network, label)

    def _measure(self, model: nn.Module, label: str) -> None:
        first = self._reference is None
        with isolated_rng(), only_training(model, ()), together("signal measurement"):
            layers = candidates(dict(known_layers(model))) if first else self._layers
            how: dict[str, Any] = {"reference": self._reference, "comparable": first, "metrics": self._metrics}
            measurement = Measurement(model, layers, **how)

            def measure(batch: Any, valid: Valid, run: Forward = self._forward) -> None:
                with measurement.batch(batch_labels(batch), valid):
                    run(model, batch)

            with measurement.listening():
                batches = self._alike.each(self._batches)
                if first:
                    begun = list(islice(batches, 1))
                    padding, again = learn(model, begun, self._forward, measure, [measurement])
                    self._layers = measurement.layers
                    for place, batch in enumerate(chain(begun, batches)):
                        self._valid.append(padding.of(model, batch, self._forward))
                        if place or again:
                            measure(batch, self._valid[place])
                else:
                    for batch, valid in zip(batches, self._valid, strict=True):
                        measure(batch, valid)
        if first:
            self._reference = measurement
        self.reports[label] = measurement.report(self._told)
