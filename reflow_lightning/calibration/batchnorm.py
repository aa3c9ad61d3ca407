"""REFLOW: re-estimate BatchNorm statistics as population statistics (arXiv 2502.15790)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.batch_moments import batch_moments, keep_the_batch_alone
from reflow_lightning.calibration.enough import read
from reflow_lightning.layers.layer import has_own_forward
from reflow_lightning.layers.statistics import batchnorm_layers, no_statistics
from reflow_lightning.running.compat.torch import BatchNorm
from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching, watching_inputs
from reflow_lightning.running.isolation import only_training, replaced
from reflow_lightning.running.processes import gather, in_step, together
from reflow_lightning.running.snapshot import Snapshot
from reflow_lightning.signal.statistics import MergedMoments, merge_moments, moments, update_all


class _TooFewValues(BaseException):
    """Ends the forward pass of a batch that gives a layer one value a channel; no handler of the model may stop it."""


def not_calibrated(model: nn.Module) -> dict[str, str]:
    """Normalisation layers that population statistics can't be given to, with the reason, by module name.

    Example:
        >>> not_calibrated(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)))
        {'0': 'it keeps no running statistics (track_running_stats=False)'}
    """
    reasons = {}
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm):
            if (reason := no_statistics(module)) is not None:
                reasons[name] = reason
        elif isinstance(getattr(module, "running_mean", None), Tensor):
            reasons[name] = f"{type(module).__name__} is no BatchNorm layer of torch.nn"
    return reasons


class Population(NamedTuple):
    """Statistics by module name, and the number of batches that they rest on, on all processes together."""

    layers: dict[str, MergedMoments]
    batches: int


@torch.no_grad()
def population_statistics(
    model: nn.Module, batches: Iterable[Any], forward: Forward, layers: Mapping[str, BatchNorm] | None = None
) -> Population:
    """Mean and variance of the input of every BatchNorm layer over all batches together; the model is left unchanged.

    Each layer normalises by the statistics of the batch at hand, so that a layer's input does not depend on the old
    statistics of those above it; one with a forward of its own does so in eval mode, for in train mode it may do more.
    Every call of a layer counts, and every value in a call counts the same: for given activations the result does not
    depend on how they are split into batches, their order, or the number of processes. A batch belongs to one process,
    SyncBatchNorm or not: the processes meet once, at the end, or with `Batches` whose number is ``"auto"`` after each
    round (`reflow_lightning.calibration.enough.read`).

    Args:
        model: Any module.
        batches: Batches on the model's device; one that gives a layer a single value a channel is passed over.
        forward: Runs the model on a batch.
        layers: The model's `batchnorm_layers`, if they were found already.

    Returns:
        Statistics of every layer. They hold no values for a layer that no batch reached.

    Raises:
        ValueError: If every batch has too few values.
    """
    layers = batchnorm_layers(model) if layers is None else layers
    # All layers in one order, reached or not, so that processes that merge their statistics agree on them.
    statistics = {
        name: MergedMoments(layer.num_features).to(exact_device(layer.get_buffer("running_mean")))
        for name, layer in layers.items()
    }
    odd = {name for name, layer in layers.items() if has_own_forward(layer)}
    seen = used = 0
    staged: dict[str, Tensor] = {}
    empty: list[str] = []

    def stage(name: str, part: Tensor) -> None:
        staged[name] = merge_moments(torch.stack([staged[name], part])) if name in staged else part

    def before(name: str, call: Call) -> None:
        values = call.argument(0, "input")
        if not values.numel():  # the data have chosen no row for it
            empty.append(name)
        elif values.ndim > 1 and values.numel() <= values.shape[1]:  # of fewer dimensions the layer itself complains
            raise _TooFewValues(f"layer '{name}' got {tuple(values.shape)}")
        elif name in odd:
            part = moments(values)
            stage(name, part)
            _remember(name, layers[name], part)
        else:
            keep_the_batch_alone(layers[name])  # until `only_training` puts back what it keeps now

    def after(name: str, call: Call) -> None:
        values = call.argument(0, "input")
        if values.numel():
            stage(name, batch_moments(layers[name], values))

    def take_in(batch: Any) -> dict[str, Tensor]:
        nonlocal seen, used
        staged.clear()
        empty.clear()
        seen += 1
        try:
            forward(model, batch)
        except _TooFewValues:
            return {}
        if empty and not staged:  # an empty batch counts for nothing
            return {}
        used += 1
        update_all(statistics, staged)
        return dict(staged)

    with ExitStack() as stack:
        torchs = {name: layer for name, layer in layers.items() if name not in odd}
        stack.enter_context(only_training(model, torchs.values()))
        for layer in torchs.values():
            stack.enter_context(alone(layer))
        stack.enter_context(watching_inputs(model, layers, before))
        stack.enter_context(watching(model, torchs, after))
        stack.enter_context(together("calibration"))
        read(batches, take_in)
    seen, used = (sum(counts) for counts in zip(*gather((seen, used)), strict=True))
    if layers and not used and seen:
        raise ValueError("every batch gives a BatchNorm layer one value a channel: use batches of more samples")
    return Population(statistics, used)


@contextmanager
def by_the_batch(model: nn.Module, layers: Mapping[str, BatchNorm]) -> Iterator[None]:
    """Have BatchNorm layers in eval mode normalise by the batch at hand within the block, and by nothing older.

    They are left with the statistics of before.

    Args:
        model: The model.
        layers: Those of its `batchnorm_layers`, by name.
    """

    def remember(name: str, call: Call) -> None:
        values = call.argument(0, "input")
        if values.ndim > 1 and values.numel() > values.shape[1]:  # of one value a channel there is no variance
            _remember(name, layers[name], moments(values))

    before = Snapshot.of_buffers(layers.values())
    try:
        with watching_inputs(model, layers, remember):
            yield
    finally:
        before.restore()


def _remember(name: str, layer: BatchNorm, batch: Tensor) -> None:
    """Have a layer in eval mode normalise by a batch, given its `moments`."""
    mean, variance = (layer.get_buffer(kept) for kept in ("running_mean", "running_var"))
    count, means, squares = batch
    if means.shape != mean.shape:
        raise ValueError(
            f"layer '{name}' ({type(layer).__name__}) has {len(mean)} channels, and gets {len(means)} in dimension 1: "
            "give it (N, C, ...), as torch's own BatchNorm layers are given"
        )
    mean.copy_(means)
    variance.copy_(squares / count)


def alone(layer: BatchNorm) -> AbstractContextManager[None]:
    """A block in which a SyncBatchNorm layer normalises by the batch of this process, as BatchNorm does."""
    synced = isinstance(layer, nn.SyncBatchNorm)
    return replaced(layer, "forward", partial(BatchNorm.forward, layer)) if synced else nullcontext()


@torch.no_grad()
def write_statistics(
    model: nn.Module, population: Population, layers: Mapping[str, BatchNorm] | None = None
) -> tuple[str, ...]:
    """Write population statistics into the running statistics of the layers.

    Returns:
        Names of the layers that batches reached, on this or another process.

    Raises:
        ValueError: If a statistic is not finite in the type of the layer. Nothing is written then.
    """
    layers = batchnorm_layers(model) if layers is None else layers
    with in_step():
        computed = {name: statistic.compute() for name, statistic in population.layers.items()}
    computed = {name: channels for name, channels in computed.items() if bool((channels.values > 0).any())}
    for name, channels in computed.items():
        dtype = layers[name].get_buffer("running_var").dtype
        bad = ~(torch.isfinite(channels.mean.to(dtype)) & torch.isfinite(channels.variance.to(dtype)))
        if bad.any():
            raise ValueError(
                f"layer '{name}' gets values that are NaN, infinite or too large for {dtype} in {int(bad.sum())} of "
                f"{bad.numel()} channels: look at the batches and at the layers above it"
            )
    for name, channels in computed.items():
        mean, variance, count = layers[name].running_mean, layers[name].running_var, layers[name].num_batches_tracked
        assert mean is not None
        assert variance is not None
        mean.copy_(channels.mean)
        variance.copy_(channels.variance)
        if count is not None:
            count.fill_(population.batches)
    return tuple(computed)
