"""The equations of a layer's maps: gathered call by call, solved, and what follows for the BatchNorm layer after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.least_squares import Normals, Sums, ridge
from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.padding import Valid
from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.hooks import Call


def by_group(values: Tensor, affine: AffineMap) -> Tensor:
    """Outputs with channels in dimension 1 as (groups, samples, channels of a group)."""
    rows = values.movedim(1, -1).reshape(-1, affine.groups, affine.channels // affine.groups)
    return rows.transpose(0, 1)


def normals_of(affine: AffineMap) -> Normals:
    """The equations of a map, without data."""
    outputs = affine.channels // affine.groups
    return Normals(affine.groups, sum(affine.columns), outputs, exact_device(affine.weights[0]))


def take_in(sums: list[Normals], stage: Stage, layer: Layer, call: Call, outputs: list[Tensor], valid: Valid) -> None:
    """Take in the inputs of a call, and what the maps of the stage shall put out for them, without padding."""
    for index, normals in zip(stage.maps, sums, strict=True):
        held = valid.of(outputs[index].shape[0], outputs[index].shape[2]) if outputs[index].ndim == 3 else None
        products = layer.products(index, call, outputs[index]) if held is None else None
        if products is not None:
            normals.add(products)
            continue
        wanted = by_group(outputs[index], layer.maps[index])
        start = 0
        for x in layer.inputs(index, call):
            rows = slice(start, start + x.shape[1])
            y = wanted[:, rows]
            if held is not None:
                x, y = (values[:, held.flatten()[rows].to(values.device)] for values in (x, y))
            normals.update(x, y)
            start = rows.stop


Chooser = Callable[[AffineMap, Sums, Tensor, float], list[Tensor]]
"""Says which weights may stay: from a map, its sums, its weights of shape (groups, O, K), and the ridge.

Each entry is one choice, a bool tensor of that shape; in each group the one that fits best is taken.
"""


def not_zero(_: AffineMap, __: Sums, old: Tensor, ___: float) -> list[Tensor]:
    """The weights that are not zero stay."""
    return [old != 0]


class _Fitted(NamedTuple):
    misfit: float
    stays: Tensor
    change: Tensor


@torch.no_grad()
def solve(
    affine: AffineMap, normals: Normals, strength: float, free_shift: bool = False, choose: Chooser = not_zero
) -> None:
    """Change the weights of a map that stay, and its biases, so that it fits best; the others are zero.

    Args:
        affine: The map.
        normals: Its inputs, and what it shall put out.
        strength: Of the ridge.
        free_shift: A shift of the output does not matter, as where a BatchNorm layer takes the mean off.
        choose: Which weights may stay.
    """
    weights = affine.matrix().view(affine.groups, -1, normals.inputs)
    sums = normals.compute(centred=affine.can_shift or free_shift)
    old = weights.to(sums.gram)
    choices = choose(affine, sums, old, strength)
    best: list[_Fitted] = []
    for g, before in enumerate(old):
        fitted = [_fit(sums.gram[g], sums.products[g], before, stays[g], strength) for stays in choices]
        best.append(min(fitted, key=lambda found: found.misfit))
    stays = torch.stack([found.stays for found in best])
    old, change = torch.where(stays, old, 0.0), torch.stack([found.change for found in best])
    shift = None
    if affine.can_shift:
        shift = (sums.mean_y - sums.mean_x @ (old + change).transpose(1, 2)).flatten()
        for bias in affine.biases:
            shift = shift - bias.to(shift)
    affine.zero_but(stays.flatten(0, 1))
    affine.add(change.flatten(0, 1), shift)


def _fit(gram: Tensor, products: Tensor, before: Tensor, stays: Tensor, strength: float) -> _Fitted:
    """The weights that stay, fitted, and what they leave of the squared error, up to a constant."""
    start = torch.where(stays, before, 0.0)
    change = ridge(gram, products - gram @ start.T, stays, strength)  # of what the old ones leave to explain
    new = start + change
    misfit = float(((new @ gram) * new).sum() - 2 * (new * products.T).sum())
    return _Fitted(misfit, stays, change)


@torch.no_grad()
def renormalise(norm: nn.Module, affine: AffineMap, normals: Normals) -> None:
    """Give the BatchNorm layer after a map the statistics of what the map puts out now: the next layers see them."""
    sums = normals.compute(centred=True)
    weights = affine.matrix().view(affine.groups, -1, normals.inputs).to(sums.gram)
    mean = (sums.mean_x @ weights.transpose(1, 2)).flatten()
    for bias in affine.biases:
        mean = mean + bias.to(mean)
    variance = ((weights @ sums.gram) * weights).sum(2) / normals.sums[:, 0, :1].clamp(min=1.0)
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_(variance.flatten().clamp(min=0.0))
