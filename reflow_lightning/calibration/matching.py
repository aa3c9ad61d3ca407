"""Match the mean and standard deviation of layers to what they shall be, in forward order; fold the correction in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.changing import stray
from reflow_lightning.calibration.collecting import Collector
from reflow_lightning.calibration.enough import read
from reflow_lightning.layers.find import check_maps, find_layers, first_tensor
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.padding import Padding, noticing
from reflow_lightning.running.batches import device_of
from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching
from reflow_lightning.running.processes import gather, together
from reflow_lightning.running.units import each_held
from reflow_lightning.signal.statistics import ChannelMoments, is_constant

_STEP = 0.25  # of layers that feed back

LARGEST_GAIN = 10.0
"""A channel is scaled by no more than this, nor by less than its inverse: what is left of a dead one is noise."""


class Target(NamedTuple):
    """What a layer shall put out: mean and standard deviation of each channel, each of shape (C,)."""

    mean: Tensor
    std: Tensor


def correction(found: ChannelMoments, target: Target, can_shift: bool) -> tuple[Tensor, Tensor]:
    """Gain and shift that give a layer the target's mean and standard deviation.

    ``gain = std / found std`` and ``shift = mean - gain * found mean``. A channel that is constant keeps its gain.
    One that can't be shifted gets the gain that matches the root mean square instead.

    Args:
        found: What the layer puts out now.
        target: What it shall put out.
        can_shift: Whether the layer has a bias.

    Example:
        >>> found = ChannelMoments(torch.ones(1), torch.tensor([1.0]), torch.tensor([4.0]))
        >>> gain, shift = correction(found, Target(torch.tensor([5.0]), torch.tensor([6.0])), can_shift=True)
        >>> gain.item(), shift.item()
        (3.0, 2.0)
    """
    spread, wanted = found.variance, target.std.square()
    if not can_shift:
        spread, wanted = spread + found.mean.square(), wanted + target.mean.square()
    gain = (wanted / spread.clamp(min=1e-300)).sqrt().clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    gain = torch.where(is_constant(spread, found.mean) | (found.values == 0), 1.0, gain)
    shift = torch.where(found.values == 0, 0.0, target.mean - gain * found.mean)
    return gain, shift if can_shift else torch.zeros_like(shift)


def _target(dense: ChannelMoments) -> Target:
    return Target(dense.mean, dense.variance.sqrt())


class Pass(NamedTuple):
    """What a pass over the batches told.

    Attributes:
        reached: For every map that was reached and has a target: what it put out, and what it should.
        repeated: Whether a layer was called several times in a forward pass.
    """

    reached: dict[str, tuple[ChannelMoments, Target]]
    repeated: bool


def one_pass(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[Any],
    forward: Forward,
    reference: nn.Module | None,
    targets: Mapping[str, Target],
    padding: Padding,
) -> Pass:
    """Run both networks over the batches, and correct each layer's output of the pruned one as it comes.

    So a layer sees inputs that are right already, and one pass is enough where a network feeds forward. On its way a
    correction rests on what was seen of the layer so far, the call at hand included, as BatchNorm in training rests on
    the batch at hand.

    A layer that is called several times is left as it is on the way: its target is known of all its calls together.

    Padding does not count where layers are told of it. No row of one network is paired with one of the other.
    """
    device = exact_device(torch.empty(0, device=device_of(model)))
    dense_layers = {} if reference is None else find_layers(reference).known
    wanted = {n: dense_layers[n] for n in layers if n in dense_layers and layers[n].maps[-1].name not in targets}
    dense, pruned = Collector(wanted, device), Collector(layers, device)

    def target_of(name: str) -> Target | None:
        if name in targets:
            return targets[name]
        found = dense.so_far(name) if name in dense_names else None  # of rows that the data choose there may be none
        return None if found is None or not bool((found.values > 0).any()) else _target(found)

    def correct(name: str, call: Call) -> Any:
        layer = layers[name]
        pruned.take_in(name, call)
        last = layer.maps[-1]
        target = target_of(last.name)
        if layer.dim is None or target is None or dense.calls[name] > 1:  # the moments of several calls are pooled
            return None
        values = first_tensor(call.output)
        shape = [1] * values.ndim
        shape[layer.dim] = last.channels
        gain, shift = (c.to(values).view(shape) for c in correction(pruned.so_far(last.name), target, last.can_shift))
        corrected = values * gain + shift
        return corrected if isinstance(call.output, Tensor) else type(call.output)((corrected, *call.output[1:]))

    dense_names = {affine.name for layer in wanted.values() for affine in layer.maps}

    def take_in(batch: Any) -> dict[str, Tensor]:
        pruned.latest.clear()
        dense.calls.clear()
        dense.valid = pruned.valid = padding.of(model, batch, forward)
        if reference is not None and wanted:
            with watching(reference, wanted, dense.take_in), watching(model, wanted, stray):
                forward(reference, batch)
        with watching(model, layers, correct):
            forward(model, batch)
        return pruned.latest

    with together("matching moments"):
        read(batches, take_in)
    with together("merging moments"):
        found, expected = pruned.compute(), dense.compute()
    reached = {name: channels for name, channels in expected.items() if bool((channels.values > 0).any())}
    goals = {name: _target(channels) for name, channels in reached.items()} | dict(targets)
    return Pass({name: (channels, goals[name]) for name, channels in found.items() if name in goals}, dense.repeated)


def passes_needed(layers: Iterable[Layer]) -> int:
    """How often the networks run over the batches.

    Once where every layer is corrected on its way, twice with attention, whose projections of queries, keys and values
    are corrected after a pass (and with layers that are called several times, which a pass tells), and sixteen times
    with layers that feed back, which take a quarter of a step each time and stay as they are in the last pass.

    Example:
        >>> passes_needed(find_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).known.values())
        1
    """
    layers = list(layers)
    if any(layer.feeds_back for layer in layers):
        return 16
    return 1 if all(len(layer.maps) == 1 for layer in layers) else 2


def on_the_way(found: ChannelMoments, target: Target) -> Target:
    """A quarter of the way from what is to what shall be.

    A layer that feeds back gets other inputs as soon as it is changed: small steps find the way, whole ones overshoot.
    """
    mean, std = found.mean, found.variance.sqrt()
    return Target(mean + _STEP * (target.mean - mean), std + _STEP * (target.std - std))


@torch.no_grad()
def match_moments(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[Any],
    forward: Forward,
    reference: nn.Module | None,
    targets: Mapping[str, Target] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Give layers the mean and standard deviation of each channel that they shall have.

    Args:
        model: The pruned network.
        layers: Those to correct, of `find_layers`.
        batches: Read once a pass.
        forward: Runs a network on a batch.
        reference: The dense network.
        targets: What maps shall put out, by name, instead of what the dense network does.

    Returns:
        Names of the layers that were corrected.
    """
    noticed: list[bool] = []
    padding = Padding(model, told=False)
    noting = noticing(model, forward, lambda: noticed.append(True))
    changed: dict[str, None] = {}
    done, needed = 0, passes_needed(layers.values())
    while done < needed:
        reached, repeated = one_pass(model, layers, batches, forward if done else noting, reference, targets, padding)
        if not done and any(gather(bool(noticed))):  # nothing was written yet: begin anew without the padding
            padding = Padding(model)
            reached, repeated = one_pass(model, layers, batches, forward, reference, targets, padding)
        done += 1
        if repeated:
            needed = max(needed, 2)
        # in the last pass, those behind a layer that feeds back were corrected for what it gives now
        moved = {n: layer for n, layer in layers.items() if not (layer.feeds_back and done == needed)}
        for (name, layer), _ in zip(moved.items(), each_held(layer.module for layer in moved.values()), strict=True):
            check_maps(layer)
            for affine in layer.maps:
                found, target = reached.get(affine.name, (None, None))
                if found is not None and target is not None and bool((found.values > 0).any()):
                    goal = on_the_way(found, target) if layer.feeds_back else target
                    affine.rescale(*correction(found, goal, affine.can_shift))
                    changed[name] = None
    return tuple(changed)
