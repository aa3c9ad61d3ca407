"""Which weights of a layer stay, chosen together with their values: sparse least squares by ADMM."""

from __future__ import annotations

import torch
from torch import Tensor

_STAGES, _ROUNDS = 8, 8  # of the penalty, and rounds of ADMM in each
_FIRST_PENALTY, _GROWTH = 0.1, 1.7  # beside a diagonal of ones
MOST_INPUTS = 8192
"""A layer of more inputs keeps its zeros: its Gram matrix would be factored for too long."""


def reselected(
    gram: Tensor, products: Tensor, old: Tensor, kept: Tensor, free: Tensor, columns: list[int], strength: float
) -> Tensor:
    """Choose the weights that explain the outputs best, as many in each tensor and group as before.

    Minimises ``sum |y - x W'|^2 + penalty |W - W_old|^2`` over W and its zeros by the alternating direction method of
    multipliers, in the manner of ALPS (arXiv 2406.07831): one copy of W solves the equations, the other has the
    largest of its entries alone, and both are drawn together more and more. Entries are compared by what they
    contribute, times the root mean square of their input.

    Args:
        gram: ``x' x`` by group, of shape (groups, K, K).
        products: ``x' y``, of shape (groups, K, O).
        old: The weights of before, of shape (groups, O, K).
        kept: Which of them are not zero, as bool.
        free: Which may be other than zero. A tensor that lacks none of these keeps them all.
        columns: The K columns by tensor: their numbers, in order.
        strength: Of the ridge, relative to the mean square of the inputs.

    Returns:
        Which weights stay, of shape (groups, O, K).

    Example:
        >>> gram, products = torch.eye(2)[None], torch.tensor([[[1.0], [3.0]]])  # y = x0 + 3 x1
        >>> kept, free = torch.tensor([[[True, False]]]), torch.tensor([[[True, True]]])
        >>> reselected(gram, products, torch.tensor([[[1.0, 0.0]]]), kept, free, [2], strength=0.01).tolist()
        [[[False, True]]]
    """
    energy = gram.diagonal(dim1=1, dim2=2).clamp(min=0.0)
    penalty = strength * energy.mean(1, keepdim=True)
    size = (energy + penalty).sqrt()[..., None]  # of each input, so that all count alike, and dead ones not too much
    size = torch.where(size > 0, size, 1.0)
    unit = torch.eye(gram.shape[1]).to(gram)
    # Half the precision will do, since these only say which weights stay.
    system = ((gram + penalty[..., None] * unit) / size / size.transpose(1, 2)).float()
    wanted = ((products + penalty[..., None] * old.transpose(1, 2)) / size).float()
    kept, free = kept.transpose(1, 2), free.transpose(1, 2)
    sparse, multipliers = (old.transpose(1, 2) * size).float(), torch.zeros_like(wanted)
    stays, weight = kept, _FIRST_PENALTY
    for _ in range(_STAGES):
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(system + weight * unit.float()))
        for _ in range(_ROUNDS):
            full = inverse @ (wanted - multipliers + weight * sparse)
            towards = full + multipliers / weight
            stays = _largest(towards.abs(), kept, free, columns)
            sparse = torch.where(stays, towards, 0.0)
            multipliers += weight * (full - sparse)
        weight *= _GROWTH
    return stays.transpose(1, 2)


def _largest(size: Tensor, kept: Tensor, free: Tensor, columns: list[int]) -> Tensor:
    """The largest free entries of each tensor, as many as are kept of it in each group."""
    found = []
    for values, before, possible in zip(*(torch.split(t, columns, dim=1) for t in (size, kept, free)), strict=True):
        ranked = torch.where(possible, values, -1.0).flatten(1)
        counts = before.flatten(1).sum(1)
        if len(counts) == 1:  # a sort would take much longer where a group has millions of weights
            chosen = ranked[0].topk(int(counts)).indices
            stays = torch.zeros_like(ranked, dtype=torch.bool).index_fill_(1, chosen, True)
        else:
            stays = torch.argsort(ranked, 1, descending=True).argsort(1) < counts[:, None]
        found.append(stays.view_as(before))
    return torch.cat(found, dim=1)
