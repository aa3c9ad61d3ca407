"""How far the inputs of BatchNorm layers are from what the layers remember of the training data."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.drift.observing import Observation, merged
from reflow_lightning.calibration.drift.stored import nearest, remembered, settled
from reflow_lightning.calibration.drift.trials import Shift
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.compat.torch import BatchNorm

THRESHOLD = 0.12
"""Distance from which the first layer has drifted, if a cause is found too.

Measured with 10 batches of the training loader: at most 0.07 (ResNet-20 on digits), 0.02 to 0.04 (ResNet-20 and 32 on
CIFAR-10). With BGR for RGB, the least of the mistakes that must be found: 0.15 to 0.20; without augmentation 0.34.
MobileNet-V1 x0.25, whose training transform is not known, is 0.1 from ImageNet's test transform and 0.2 from usual
crops of random size: what counts as a drift is a difference from its own training.
"""

_UNEXPLAINED = 0.25
"""Distance from which it has drifted though no cause is found.

The weights have moved since the statistics were stored. Of 180 small networks (momenta from 0.3 to 0.003 and
none, 1 to 20 epochs, Adam and SGD, averaged weights or not) none went as far with its training loader.
"""

_YOUNG = 0.5
"""The same for networks that have seen few batches, whose weights move fast."""

SEEN = 100
"""Batches after which a running average has forgotten where it began, and weights move slowly."""

_NEVER = sys.float_info.max  # except what is infinite or no number
_SORTED = 0.05  # share of the variance of samples that lies between batches


@dataclass(frozen=True)
class LayerDrift:
    """How far the batches are from what a layer remembers.

    Attributes:
        name: Of the layer.
        mean: Difference of the means in stored standard deviations; root mean square over channels, less the noise.
        variance: Logarithm of the ratio of the variances, likewise.
        noise: What the distance of equal data would be, with so few samples.
        between: Share of the variance of samples that surely lies between batches; none if they are shuffled.
        channel: The channel that differs most.
        stored: Mean and standard deviation that are stored for this channel.
        found: Those on the batches.
        tolerance: The greatest distance that means nothing, of many samples.
    """

    name: str
    mean: float
    variance: float
    noise: float
    between: float
    channel: int
    stored: tuple[float, float]
    found: tuple[float, float]
    tolerance: float

    @property
    def distance(self) -> float:
        """Of both together: the root of twice the divergence of two Gaussians, for small ones."""
        return math.hypot(self.mean, self.variance / math.sqrt(2))

    @property
    def drifted(self) -> bool:
        """Whether the distance is more than the threshold, and more than the noise explains."""
        return not self.distance <= self.expected  # also where it is no number

    @property
    def expected(self) -> float:
        """The greatest distance to expect of the training data."""
        return max(self.tolerance, 2 * self.noise)

    def __str__(self) -> str:
        stored, found = (f"mean {mean:.4g} and std {std:.4g}" for mean, std in (self.stored, self.found))
        return (
            f"layer '{self.name}' has stored {stored} in channel {self.channel}, but the batches give {found} "
            f"(distance {self.distance:.2g}, at most {self.expected:.2g} expected)"
        )


def compare(
    model: nn.Module, seen: Observation, shifts: Mapping[str, Shift] = MappingProxyType({})
) -> tuple[LayerDrift, ...]:
    """The drift of every layer that batches reached, in the order of the forward pass.

    Args:
        model: The dense network.
        seen: What the model saw, in eval mode.
        shifts: What is to be added for the layers that are not the same in train mode.
    """
    layers = batchnorm_layers(model)
    return tuple(_layer_drift(name, layers[name], found, shifts.get(name)) for name, found in seen.layers.items())


def judged(rows: Sequence[LayerDrift], explained: bool, skewed: bool) -> tuple[LayerDrift, ...]:
    """The rows as they come, with what each of them must exceed.

    Other data enter at the input, so that the first layer tells of them, with few weights before it that may have moved
    since its statistics were taken. The later ones depend on all weights before them; they only confirm what the first
    layer tells, or the labels, or the order of the samples.

    Args:
        rows: In the order of the forward pass.
        explained: Whether a cause was found.
        skewed: Whether the labels or the order tell one.
    """
    if not rows:
        return ()
    first = replace(rows[0], tolerance=THRESHOLD) if explained else rows[0]
    later = THRESHOLD if skewed or first.drifted else _NEVER
    return (first, *(replace(row, tolerance=later) for row in rows[1:]))


def batches_are_sorted(rows: Iterable[LayerDrift]) -> bool:
    """Whether batches differ among themselves more than shuffled ones would."""
    return max((row.between for row in rows), default=0.0) > _SORTED


def _layer_drift(name: str, layer: BatchNorm, found: list[Tensor], shift: Shift | None) -> LayerDrift:
    """What was found beside what is stored, from the `sample_moments` of the batches.

    The stored statistics are compared without what they still hold of their initial values: the share that brings them
    nearest. A drift of the data is hardly ever mistaken for one, as it would have to move all means towards 0 and all
    variances towards 1 by the same share.
    """
    (count, mean, _), (_, square, _) = merged(found)
    parts = torch.stack(found)
    samples = count[0].item()
    within = parts[:, :, 2].sum(0) / max(samples - len(found), 1)  # of the means and of the squares of samples
    noise = within * (1 / samples + len(found) / (samples * remembered(layer)))
    if shift is not None:
        mean, square, noise = mean + shift.mean, square + shift.square, noise + shift.noise
    stored_mean, stored_variance = (layer.get_buffer(f"running_{what}").double().cpu() for what in ("mean", "var"))
    variance = (square - (mean - stored_mean).square()).clamp(min=0)
    means, variances = settled(layer)
    scale = _stable(variances, layer)
    shifts = (mean - means).square() / scale
    stretches = (_stable(variance, layer) / scale).log().square()
    each = shifts + stretches / 2
    best = nearest(each.mean(1))
    noises = noise[0] / scale[best], noise[1] / _stable(variance, layer).square()  # of the mean, of the log variance
    channel = int(each[best].nan_to_num(nan=math.inf).argmax())
    return LayerDrift(
        name=name,
        mean=_root(shifts[best].mean() - noises[0].mean()),
        variance=_root(stretches[best].mean() - noises[1].mean()),
        noise=_root(noises[0].mean() + noises[1].mean() / 2),
        between=_between(parts),
        channel=channel,
        stored=(stored_mean[channel].item(), stored_variance[channel].sqrt().item()),
        found=(mean[channel].item(), variance[channel].sqrt().item()),
        tolerance=_YOUNG if 0 < int(layer.num_batches_tracked or 0) < SEEN else _UNEXPLAINED,
    )


def _stable(variance: Tensor, layer: BatchNorm) -> Tensor:
    """As the layer divides by it: a dead channel has nothing to say."""
    return variance + layer.eps


def _root(square: Tensor) -> float:
    return square.clamp(min=0).sqrt().item()


def _between(parts: Tensor) -> float:
    """Intraclass correlation of the samples of a batch, by analysis of variance: the median over channels.

    Args:
        parts: `sample_moments` of each batch, (k, 2, 3, C).
    """
    count, mean, squares = parts[:, 0].unbind(1)
    batches, samples = len(parts), count.sum(0)
    if batches < 2 or samples[0] <= batches:
        return 0.0
    among = (count * (mean - (count * mean).sum(0) / samples).square()).sum(0) / (batches - 1)
    within = squares.sum(0) / (samples - batches)
    size = samples / batches
    share = (among - within) / (among + (size - 1) * within).clamp(min=1e-30)
    # The estimate for shuffled samples is 0 up to chance: two standard errors are taken off.
    return share.median().item() - 2 * math.sqrt(2 / (batches - 1)) / size[0].item()
