"""The equations of a layer's maps: gathered call by call, solved, and what follows for the BatchNorm layer after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.least_squares import Normals, Sums, ridge_at_once, solved_at_once
from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.padding import Valid
from reflow_lightning.running.agreeing import from_first
from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.hooks import Call
from reflow_lightning.running.processes import together, total
from reflow_lightning.running.world import dealt


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

Each entry is one choice, a bool tensor of that shape; in each group the one that fits best is taken. All processes give
as many choices, and the choices of rank zero count.
"""


def not_zero(_: AffineMap, __: Sums, old: Tensor, ___: float) -> list[Tensor]:
    """The weights that are not zero stay."""
    return [old != 0]


@torch.no_grad()
def solve(
    affine: AffineMap, normals: Normals, strength: float, free_shift: bool = False, choose: Chooser = not_zero
) -> None:
    """Change the weights of a map that stay, and its biases, so that it fits best; the others are zero.

    Where processes run together, all must call it, with the same equations: each solves its share of the rows.

    Args:
        affine: The map.
        normals: Its inputs, and what it shall put out.
        strength: Of the ridge.
        free_shift: A shift of the output does not matter, as where a BatchNorm layer takes the mean off.
        choose: Which weights may stay; what the process of rank zero says counts for all.
    """
    weights = affine.matrix().view(affine.groups, -1, normals.inputs)
    sums = normals.compute(centred=affine.can_shift or free_shift)
    old = weights.to(sums.gram)
    with together(f"choosing the weights of '{affine.name}' that stay"):
        choices = torch.stack(choose(affine, sums, old, strength))
    choices = from_first(choices)  # rows can be shared out only among processes that choose alike
    with together(f"solving for '{affine.name}'"):
        changes = _share_of_changes(sums, old, choices, strength)
    changes = total(changes)
    best = _best(sums, torch.where(choices, old, 0.0) + changes)
    groups = torch.arange(affine.groups, device=best.device)
    stays, change = choices[best, groups], changes[best, groups]
    old = torch.where(stays, old, 0.0)
    shift = None
    if affine.can_shift:
        shift = (sums.mean_y - sums.mean_x @ (old + change).transpose(1, 2)).flatten()
        for bias in affine.biases:
            shift = shift - bias.to(shift)
    affine.zero_but(stays.flatten(0, 1))
    affine.add(change.flatten(0, 1), shift)


def _share_of_changes(sums: Sums, old: Tensor, choices: Tensor, strength: float) -> Tensor:
    """The changes of the weights that stay, for the rows that this process solves; zero for all others.

    Args:
        sums: The sums of the map.
        old: Its weights, of shape (groups, O, K).
        choices: Which weights stay, of shape (choices, groups, O, K).
        strength: Of the ridge.

    Returns:
        Tensor of the shape of ``choices``.
    """
    changes = torch.zeros(choices.shape, dtype=old.dtype, device=old.device)
    left = [(sums.products - sums.gram @ torch.where(choice, old, 0.0).mT).mT for choice in choices]
    for c, groups, rows in dealt(_rows_at_once(choices)):
        stays = choices[c, groups, rows]
        changes[c, groups, rows] = ridge_at_once(sums.gram, groups, left[c][groups, rows], stays, strength)
    return changes


def _rows_at_once(choices: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """What is solved at once: a choice, and rows with their groups."""
    for c, choice in enumerate(choices):
        yield from ((c, groups, rows) for groups, rows in solved_at_once(choice))


def _best(sums: Sums, weights: Tensor) -> Tensor:
    """For each group, which of several weights (choices, groups, O, K) leave the least of the squared error."""
    if len(weights) == 1:
        return torch.zeros(weights.shape[1], dtype=torch.long, device=weights.device)
    of_products = 2 * weights * sums.products.transpose(1, 2)
    return ((weights @ sums.gram) * weights - of_products).sum((2, 3)).argmin(0)


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
