"""Wrong transforms of calibration data: each is undone and tried again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.calibration.drift.distance import compare
from reflow_lightning.calibration.drift.observing import Change, Entry, Observation, merged
from reflow_lightning.calibration.drift.stored import settled
from reflow_lightning.calibration.drift.trials import Shift, Trials
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.signal.statistics import merge_moments

LOOK = "; look at the transform of the calibration data"


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift`` by channel, which gives an input that the first layer was trained on."""

    scale: float
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Change an input (N, C, ...), or (..., C) for a single shift."""
        shape = (-1, *[1] * (x.ndim - 2)) if len(self.shift) > 1 else (1,)
        return x * self.scale + self.shift.to(x).view(shape)


def transform_causes(trials: Trials, seen: Observation, shifts: Mapping[str, Shift], helps: float) -> tuple[str, ...]:
    """Undo what a wrong transform may have done, on a few batches, and name what undoes most of the drift."""
    entry = _entry(seen)
    if entry is None:
        return ()
    affine = fitting_affine(trials.model, seen, entry)
    changes: dict[str, Change] = {}
    if affine is not None:
        changes[_normalisation(entry, affine)] = affine
    layer = trials.model.get_submodule(entry.name)
    if isinstance(layer, nn.Conv2d):
        if layer.in_channels == 3:
            changes["likely cause: channels in reverse order, BGR for RGB or the other way round"] = _reversed
        changes["likely cause: no random crops (augmentation) as there were in training"] = _shifted
        changes["likely cause: no random resized crops (augmentation) as there were in training"] = _zoomed
    as_it_is = _distances(trials.model, trials.seen, shifts)
    left = {
        cause: [undone / before for undone, before in zip(found, as_it_is, strict=True)]
        for cause, change in changes.items()
        for found in [_distances(trials.model, trials.observe(change), shifts)]
    }
    # Where the later layers lag behind their weights nothing mends them; but what was fitted to the first needs them.
    helping = {
        cause: first
        for cause, (first, whole) in left.items()
        if (first < helps / 2 and whole < helps if changes[cause] is affine else first < helps)
    }
    best = min(helping, key=helping.__getitem__, default=None)
    if best is None:
        return ()
    return (f"{best} (undone, it leaves {helping[best]:.0%} of the distance in the first layer){LOOK}",)


def fitting_affine(model: nn.Module, seen: Observation, entry: Entry) -> Affine | None:
    """The change of the input that gives the first BatchNorm layer its stored statistics, by least squares.

    A convolution maps a constant to a constant, its summed weights times it. So the stored means of C channels are C
    equations for one shift an input channel, and the variances give the scale.
    """
    layer, (name, found) = model.get_submodule(entry.name), next(iter(seen.layers.items()))
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    norm = batchnorm_layers(model)[name]
    if not isinstance(weight, Tensor) or getattr(layer, "groups", 1) > 1 or weight.shape[0] != norm.num_features:
        return None
    (_, mean, _), (_, square, _) = merged(found)
    variance = (square - (mean - norm.get_buffer("running_mean").double().cpu()).square()).clamp(min=0)
    summed = weight.detach().double().cpu().flatten(2).sum(2) if weight.ndim > 2 else weight.detach().double().cpu()
    if summed.shape[1] > 4 or weight.ndim == 2:  # too many to tell apart: one shift for all
        summed = summed.sum(1, keepdim=True)
    offset = torch.zeros_like(mean) if bias is None else bias.detach().double().cpu()
    fits = []
    for stored, stored_variance in zip(*settled(norm), strict=True):
        scale = ((stored_variance + norm.eps) / (variance + norm.eps)).log().median().div(2).exp()
        heights = (stored_variance + norm.eps).sqrt()
        wanted = (stored - offset - scale * (mean - offset)) / heights
        shift = torch.linalg.lstsq(summed / heights[:, None], wanted[:, None], driver="gelsd").solution[:, 0]
        left = (wanted - summed @ shift / heights).square()
        left = left + (scale.square() * variance + norm.eps).div(stored_variance + norm.eps).log().square() / 2
        fits.append((left.sum().item(), Affine(scale.item(), shift)))
    return min(fits, key=lambda fit: fit[0])[1]


def _normalisation(entry: Entry, affine: Affine) -> str:
    count, mean, squares = entry.moments
    std = (squares / count).sqrt()
    there = f"the input has mean {_few(mean)} and std {_few(std)}"
    if entry.least >= 0 and entry.greatest > 16:
        return f"likely cause: pixels in 0..255 instead of normalised ones; {there}"
    fits = f"the first layer fits mean {_few(affine.scale * mean + affine.shift)} and std {_few(affine.scale * std)}"
    plain = entry.least >= 0 and entry.greatest <= 1.001
    what = "pixels in 0..1 that are not normalised" if plain else "another mean and std in the normalisation"
    return f"likely cause: {what}; {there}, {fits}"


def _few(values: Tensor) -> str:
    return "/".join(f"{value:.3g}" for value in values.tolist()[:3])


def _entry(seen: Observation) -> Entry | None:
    entries = [entry for entry in seen.entries if entry.name == seen.entries[0].name]
    if not entries:
        return None
    return Entry(
        entries[0].name,
        merge_moments(torch.stack([entry.moments for entry in entries])),
        min(entry.least for entry in entries),
        max(entry.greatest for entry in entries),
    )


def _distances(model: nn.Module, seen: Observation, shifts: Mapping[str, Shift]) -> tuple[float, float]:
    """The distance of the first layer, and the root mean square over all layers; neither is 0."""
    rows = compare(model, seen, shifts)
    whole = math.sqrt(sum(row.distance**2 for row in rows) / len(rows))
    return max(rows[0].distance, 1e-9), max(whole, 1e-9)


def _reversed(x: Tensor) -> Tensor:
    return x.flip(1)


def _shifted(x: Tensor) -> Tensor:
    """Each image shifted at random by up to an eighth of its size, over the darkest value of each channel."""
    count, _, height, width = x.shape
    random = torch.Generator().manual_seed(0)
    down, right = height // 8, width // 8
    dark = x.amin((0, 2, 3), keepdim=True)
    padded = functional.pad(x - dark, (right, right, down, down)) + dark
    tops = torch.randint(2 * down + 1, (count,), generator=random).tolist()
    lefts = torch.randint(2 * right + 1, (count,), generator=random).tolist()
    parts = zip(padded, tops, lefts, strict=True)
    return torch.stack([image[:, top : top + height, left : left + width] for image, top, left in parts])


def _zoomed(x: Tensor) -> Tensor:
    """Of each image a random part of 8 to 100 % of its area, at the full size."""
    count, _, height, width = x.shape
    random = torch.Generator().manual_seed(0)
    sizes = (0.08 + 0.92 * torch.rand(count, generator=random)).sqrt()
    offsets = (1 - sizes)[:, None] * (2 * torch.rand(count, 2, generator=random) - 1)
    theta = torch.cat([torch.eye(2)[None] * sizes[:, None, None], offsets[:, :, None]], 2).to(x)
    grid = functional.affine_grid(theta, [count, 1, height, width], align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
