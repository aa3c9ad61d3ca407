"""What likely made calibration data differ from the training data: possible causes are undone and tried again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.calibration.drift.distance import THRESHOLD, LayerDrift, batches_are_sorted, compare
from reflow_lightning.calibration.drift.observing import Change, Entry, Observation, merged, observe
from reflow_lightning.layers.norms import batchnorm_layers
from reflow_lightning.running.forward import Forward
from reflow_lightning.signal.statistics import merge_moments

_HELPS = 0.6  # a cause is named if undoing it leaves less than this share of the drift
_HELPS_DESPITE = 0.2  # or this, if the labels or the order tell another cause: a class may have a colour of its own
_LOOK = "; look at the transform of the calibration data"


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift`` by channel, which gives an input that the first layer was trained on."""

    scale: float
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Change an input (N, C, ...), or (..., C) for a single shift."""
        shape = (-1, *[1] * (x.ndim - 2)) if len(self.shift) > 1 else (1,)
        return x * self.scale + self.shift.to(x).view(shape)


def likely_causes(
    model: nn.Module, kept: Sequence[Any], forward: Forward, seen: Observation, rows: Sequence[LayerDrift]
) -> tuple[str, ...]:
    """Sentences, the best-founded first; none if nothing has drifted and there were samples enough.

    Args:
        model: The dense network.
        kept: A few batches of this process, to try causes on.
        forward: Runs the model on a batch.
        seen: What the model saw of all batches.
        rows: What `compare` made of it.
    """
    if not any(row.drifted for row in rows) and not batches_are_sorted(rows):
        return too_few(seen, rows)
    if not all(math.isfinite(row.distance) for row in rows):
        return ("likely cause: values that are NaN, infinite or very large in the batches",)
    data = (*label_causes(seen), *order_causes(seen, rows))
    helps = _HELPS_DESPITE if data else _HELPS
    return (*transform_causes(model, kept, forward, seen, helps), *data) or (_unknown(rows),)


def too_few(seen: Observation, rows: Sequence[LayerDrift]) -> tuple[str, ...]:
    """Say so if the sampling noise hides a drift."""
    noise = max((row.noise for row in rows), default=0.0)
    if noise <= THRESHOLD:
        return ()
    samples = _samples(seen)
    wanted = math.ceil(samples * (2 * noise / THRESHOLD) ** 2)
    return (f"too few samples: {samples} can't tell a distance below {2 * noise:.2g}; some {wanted} would do",)


def transform_causes(
    model: nn.Module, kept: Sequence[Any], forward: Forward, seen: Observation, helps: float
) -> tuple[str, ...]:
    """Undo what a wrong transform may have done, on a few batches, and name what undoes most of the drift."""
    entry = _entry(seen)
    if entry is None:
        return ()
    affine = fitting_affine(model, seen, entry)
    trials: dict[str, Change] = {}
    if affine is not None:
        trials[_normalisation(entry, affine)] = affine
    layer = model.get_submodule(entry.name)
    if isinstance(layer, nn.Conv2d):
        if layer.in_channels == 3:
            trials["likely cause: channels in reverse order, BGR for RGB or the other way round"] = _reversed
        trials["likely cause: no random crops (augmentation) as there were in training"] = _shifted
        trials["likely cause: no random resized crops (augmentation) as there were in training"] = _zoomed
    as_it_is = _total(model, kept, forward, None)
    left = {cause: _total(model, kept, forward, change) for cause, change in trials.items()}
    best = min(left, key=left.__getitem__, default=None)
    if best is None or not left[best] < helps * as_it_is:
        return ()
    return (f"{best} (undone, it leaves {left[best] / as_it_is:.0%} of the distance){_LOOK}",)


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
    stored, variance = (norm.get_buffer(f"running_{what}").double().cpu() for what in ("mean", "var"))
    ratio = (variance + norm.eps) / (square - (mean - stored).square() + norm.eps)
    scale = ratio.log().median().div(2).exp()
    summed = weight.detach().double().cpu().flatten(2).sum(2) if weight.ndim > 2 else weight.detach().double().cpu()
    if summed.shape[1] > 4 or weight.ndim == 2:  # too many to tell apart: one shift for all
        summed = summed.sum(1, keepdim=True)
    offset = 0.0 if bias is None else bias.detach().double().cpu()
    heights = (variance + norm.eps).sqrt()
    wanted = (stored - offset - scale * (mean - offset)) / heights
    shift = torch.linalg.lstsq(summed / heights[:, None], wanted[:, None], driver="gelsd").solution[:, 0]
    return Affine(scale.item(), shift)


def label_causes(seen: Observation) -> tuple[str, ...]:
    """What the labels of the batches tell."""
    if not seen.labels:
        return ()
    labels = torch.cat(seen.labels)
    kinds, counts = labels.unique(return_counts=True)  # type: ignore[no-untyped-call]
    classes = seen.classes if seen.classes and seen.classes > int(labels.max()) else len(kinds)
    samples, top = len(labels), int(counts.max())
    expected = classes * (1 - math.exp(-samples / classes))
    if len(kinds) == 1 and classes > 1:
        return (f"likely cause: one class only, all {samples} samples have label {int(kinds[0])}",)
    if len(kinds) < 0.6 * expected:
        return (f"likely cause: skewed data, {len(kinds)} of {classes} classes in {samples} samples",)
    share = samples / classes
    if top > 1.5 * share + 5 * math.sqrt(share):
        label = int(kinds[counts.argmax()])
        return (f"likely cause: skewed data, label {label} on {top / samples:.0%} of the samples",)
    return ()


def order_causes(seen: Observation, rows: Sequence[LayerDrift]) -> tuple[str, ...]:
    """What the differences of the batches among themselves tell."""
    if not batches_are_sorted(rows):
        return ()
    worst = max(rows, key=lambda row: row.between)
    return (
        f"likely cause: class-sorted data, {worst.between:.0%} of the variance in layer '{worst.name}' lies between "
        "batches; shuffle them",
    )


def _unknown(rows: Sequence[LayerDrift]) -> str:
    """A transform changes the first layers most, the choice of samples the last ones."""
    if rows[-1].distance > max(2 * rows[0].distance, 0.3):
        return "likely cause: one class or skewed data, since the last layer differs more than the first"
    return f"likely cause: another augmentation than in training, or other data{_LOOK}"


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


def _samples(seen: Observation) -> int:
    return int(max(sum(part[0, 0, 0].item() for part in found) for found in seen.layers.values()))


def _total(model: nn.Module, kept: Sequence[Any], forward: Forward, change: Change | None) -> float:
    """Root mean square distance over the layers."""
    rows = compare(model, observe(model, kept, forward, change))
    return math.sqrt(sum(row.distance**2 for row in rows) / len(rows))


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
