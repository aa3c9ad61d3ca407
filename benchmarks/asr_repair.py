"""ASR (*Adaptive Signal Resuscitation*, arXiv 2605.21426), and the layer-wise rescaling that it compares itself with.

Written after the formulas of the paper; no code of its authors is known. Where the paper is silent: both networks are
measured once, in eval mode, before anything is rescaled, and what keeps a division finite is 1e-8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.calibration import Calibration, Call, Snapshot
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import watching
from reflow_lightning.running.isolation import only_training
from reflow_lightning.signal.statistics import ChannelMoments, Moments

EPS = 1e-8

Factors = Callable[[Tensor, Tensor], Tensor]
"""Variances of a layer's channels, dense and pruned, each of shape (C,), to what each channel is multiplied by."""


def layer_factors(dense: Tensor, pruned: Tensor) -> Tensor:
    """LW: one factor for all channels, ``sqrt(mean v_d / (mean v_p + eps))``."""
    return (dense.mean() / (pruned.mean() + EPS)).sqrt().expand_as(dense)


def channel_factors(dense: Tensor, pruned: Tensor) -> Tensor:
    """ASR: ``1 + s (sqrt(v_d / (v_p + eps)) - 1)``, trusted by ``s = v_p / (v_p + median v_p)``, 0 without signal."""
    full = (dense / (pruned + EPS)).sqrt()
    trust = torch.where(pruned > 0, pruned / (pruned + pruned.quantile(0.5)), 0.0)
    return 1 + trust * (full - 1)


@torch.no_grad()
def convolution_outputs(model: nn.Module, batches: Iterable[Any], forward: Forward) -> dict[str, ChannelMoments]:
    """Moments of what each convolution puts out in eval mode, in the order of the forward pass."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    found: dict[str, Moments] = {}

    def take_in(name: str, call: Call) -> None:
        found.setdefault(name, Moments(call.output.shape[1])).update(call.output)

    with only_training(model, ()), watching(model, names, take_in):
        for batch in batches:
            forward(model, batch)
    return {name: statistic.compute() for name, statistic in found.items()}


class _Before:
    """The values of some convolutions; those that get a bias lose it again."""

    def __init__(self, convolutions: Sequence[nn.Conv2d]) -> None:
        self.without_bias = [convolution for convolution in convolutions if convolution.bias is None]
        self.values = Snapshot(convolutions)

    def restore(self) -> None:
        """Put every value back, bit for bit."""
        for convolution in self.without_bias:
            convolution.bias = None
        self.values.restore()


@dataclass(frozen=True)
class Rescaling:
    """Multiply the output channels of all convolutions but the first, before BatchNorm is re-estimated.

    Args:
        factors: `channel_factors` for ASR, `layer_factors` for LW.
        correct_means: Move each channel's mean to the dense network's as well, by the bias.
    """

    factors: Factors = channel_factors
    correct_means: bool = True

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        start = time.perf_counter()
        if reference is None:
            raise ValueError("reference=None: rescaling compares with the dense network, pass a copy of it")
        read = list(batches)
        dense = convolution_outputs(reference, read, forward)
        pruned = convolution_outputs(model, read, forward)
        gains = {name: self.factors(dense[name].variance, pruned[name].variance) for name in list(pruned)[1:]}
        convolutions = {name: model.get_submodule(name) for name in gains}
        before = _Before([module for module in convolutions.values() if isinstance(module, nn.Conv2d)])
        for name, gain in gains.items():
            shift = dense[name].mean - gain * pruned[name].mean
            rescale(convolutions[name], gain, shift if self.correct_means else torch.zeros_like(shift))
        how = dict.fromkeys(gains, self.factors.__name__.replace("_", " "))
        return Calibration(tuple(gains), {}, len(read), time.perf_counter() - start, before, how)


@torch.no_grad()
def rescale(convolution: nn.Module, gain: Tensor, shift: Tensor) -> None:
    """Have a convolution give ``gain * y + shift`` from now on, both of shape (C,); it gets a bias if it has none."""
    weight = convolution.get_parameter("weight")
    if convolution.bias is None:
        convolution.bias = nn.Parameter(weight.new_zeros(len(weight)))
    weight.mul_(gain.to(weight).view(-1, 1, 1, 1))
    convolution.get_parameter("bias").mul_(gain.to(weight)).add_(shift.to(weight))
