"""Which weights of a layer stay, chosen together with their values: sparse least squares by ADMM."""

from __future__ import annotations

import torch
from torch import Tensor

_STAGES, _ROUNDS = 8, 8  # of the penalty, and rounds of ADMM in each
_FIRST_PENALTY, _GROWTH = 0.1, 1.7
MOST_INPUTS = 8192
"""A layer of more inputs keeps its zeros: its Gram matrix would be factored for too long."""


def reselected(
    gram: Tensor, products: Tensor, old: Tensor, kept: Tensor, free: Tensor, columns: list[int], strength: float
) -> Tensor:
    """Choose the weights that explain the outputs best, as many in each tensor as before.

    Minimises ``sum |y - x W'|^2 + penalty |W - W_old|^2`` over W and its zeros by the alternating direction method of
    multipliers, in the manner of ALPS (arXiv 2406.07831): one copy of W solves the equations, the other has the
    largest of its entries alone, and both are drawn together more and more. Entries are compared by what they
    contribute, times the root mean square of their input.

    Args:
        gram: ``x' x``, of shape (K, K).
        products: ``x' y``, of shape (K, O).
        old: The weights of before, of shape (O, K).
        kept: Which of them are not zero, as bool.
        free: Which may be other than zero. A tensor that lacks none of these keeps them all.
        columns: The K columns by tensor: their numbers, in order.
        strength: Of the ridge, relative to the mean square of the inputs.

    Returns:
        Which weights stay, of shape (O, K): those of before if all inputs are zero.

    Example:
        >>> gram, products = torch.eye(2), torch.tensor([[1.0], [3.0]])  # y = x0 + 3 x1
        >>> kept, free = torch.tensor([[True, False]]), torch.tensor([[True, True]])
        >>> reselected(gram, products, torch.tensor([[1.0, 0.0]]), kept, free, [2], strength=0.01).tolist()
        [[False, True]]
    """
    if not bool(gram.diagonal().any()):
        return kept
    size = gram.diagonal().sqrt()
    size = torch.where(size > 0, size, 1.0)  # of each input, so that all count alike
    penalty = strength * gram.diagonal().mean()
    system = (gram + penalty * torch.eye(len(gram)).to(gram)) / size[:, None] / size
    wanted = (products + penalty * old.T) / size[:, None]
    system, wanted = system.float(), wanted.float()  # they only say which weights stay
    sparse, multipliers = (old.T * size[:, None]).float(), torch.zeros_like(wanted)
    stays, weight = kept.T, _FIRST_PENALTY * float(system.diagonal().mean())
    for _ in range(_STAGES):
        shifted = system + weight * torch.eye(len(system)).to(system)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
        for _ in range(_ROUNDS):
            full = inverse @ (wanted - multipliers + weight * sparse)
            towards = full + multipliers / weight
            stays = _largest(towards.abs(), kept.T, free.T, columns)
            sparse = torch.where(stays, towards, 0.0)
            multipliers += weight * (full - sparse)
        weight *= _GROWTH
    return stays.T


def _largest(size: Tensor, kept: Tensor, free: Tensor, columns: list[int]) -> Tensor:
    """The largest free entries of each tensor, as many as are kept of it."""
    found = []
    for values, before, possible in zip(*(torch.split(t, columns) for t in (size, kept, free)), strict=True):
        if bool((possible <= before).all()):
            found.append(before)
            continue
        chosen = torch.where(possible, values, -1.0).flatten().topk(int(before.sum())).indices
        found.append(torch.zeros_like(before).flatten().index_fill_(0, chosen, True).view_as(before))
    return torch.cat(found)
