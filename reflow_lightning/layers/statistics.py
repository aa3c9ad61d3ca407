"""BatchNorm layers with running statistics, and whether these are what torch's layer takes them for."""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reflow_lightning.layers.layer import has_own_forward
from reflow_lightning.running.compat.torch import BatchNorm, own_buffers
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.lent import is_lent
from reflow_lightning.running.sharding import is_sharded
from reflow_lightning.running.snapshot import Snapshot

_STATISTICS = ("running_mean", "running_var")


def batchnorm_layers(model: nn.Module) -> dict[str, BatchNorm]:
    """BatchNorm layers whose running statistics are the mean and the variance of each channel, by module name.

    Example:
        >>> list(batchnorm_layers(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, eps=1e-3))))
        ['1', '2']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and no_statistics(module) is None
    }


def no_statistics(layer: BatchNorm) -> str | None:
    """Why the mean and the variance of each channel are not what a BatchNorm layer keeps; ``None`` if they are.

    Example:
        >>> no_statistics(nn.BatchNorm1d(2, track_running_stats=False))
        'it keeps no running statistics (track_running_stats=False)'
    """
    kind = type(layer).__name__
    kept = [getattr(layer, name) for name in _STATISTICS]
    if any(values is None for values in kept):
        return "it keeps no running statistics (track_running_stats=False)"
    if any(is_lazy(values) for values in kept):
        return None
    if not all(own_buffers(layer).get(name) is values for name, values in zip(_STATISTICS, kept, strict=True)):
        return f"the running statistics of {kind} are no buffers"
    for values in kept:
        if values.shape != (layer.num_features,) or not values.is_floating_point():
            given = f"shape {tuple(values.shape)} of {values.dtype}"
            return f"{kind} keeps running statistics of {given}, not one for each of {layer.num_features} channels"
    if has_own_forward(layer) and not _normalises_by_them(layer):
        return f"{kind} has a forward of its own, which uses the running statistics in another way than torch's"
    return None


@torch.no_grad()
def _normalises_by_them(layer: BatchNorm) -> bool:
    """Whether a layer in eval mode takes the mean off dimension 1, and divides by the root of the variance.

    It is tried on a small input, and with other statistics on one that these normalise to the same. One that wants more
    than one argument can't be tried, and is taken to do so.
    """
    like = layer.get_buffer("running_mean") if layer.weight is None else layer.weight
    wanted = [p for p in inspect.signature(layer.forward).parameters.values() if p.default is p.empty]
    has_values = not (like.is_meta or is_sharded(like) or is_lent(like))
    if not has_values or len([p for p in wanted if p.kind is p.POSITIONAL_OR_KEYWORD]) > 1:
        return True
    buffers, before = own_buffers(layer), Snapshot.of_buffers([layer])
    kept = {name: buffers[name] for name in _STATISTICS}
    try:
        with isolated_rng(), only_training(layer, ()):
            first = any(_puts_out_the_same(layer, like, places) for places in ((2, 3), (6,), (), (1, 2, 3)))
            return first and not _puts_out_the_same(layer, like, (layer.num_features + 1,), dim=-1)
    finally:
        buffers.update(kept)
        before.restore()


def _puts_out_the_same(layer: BatchNorm, like: Tensor, places: tuple[int, ...], dim: int = 1) -> bool:
    """Whether a layer with two sets of statistics does, given inputs that are the same once they are normalised."""
    kept, shape = layer.get_buffer("running_mean"), (-1, *[1] * len(places))
    channels = torch.arange(layer.num_features).to(like)
    normal = torch.arange(2 * layer.num_features * math.prod(places)).sin().to(like).view(2, -1, *places)
    outputs = []
    for mean, variance in ((channels.sin(), channels.cos() + 1.5), (channels * 0, channels * 0 + 1)):
        own_buffers(layer).update(running_mean=mean.to(kept), running_var=variance.to(kept))
        given = normal * (variance + layer.eps).sqrt().view(shape) + mean.view(shape)
        try:
            outputs.append(layer.forward(given.movedim(1, dim)))
        except Exception:  # a forward of the user's may raise anything on a shape that it does not take
            return False
    one, other = outputs
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    tolerance = torch.finfo(like.dtype).eps ** 0.5
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * one.abs().max())
