"""A tensor cut into blocks of consecutive weights, and linear algebra on many small symmetric matrices."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

_PIECE = 1 << 22  # matrix elements that are worked on together: bounds the extra memory


def blocks(values: Tensor, size: int) -> Tensor:
    """Cut the last dimension into blocks; the last of them is filled up with zeros.

    Args:
        values: Tensor of shape (..., n).
        size: Elements of a block.

    Returns:
        Tensor of shape (..., ceil(n / size), size).

    Example:
        >>> blocks(torch.arange(3), 2)
        tensor([[0, 1],
                [2, 0]])
    """
    count = -(-values.shape[-1] // size)
    return functional.pad(values, (0, count * size - values.shape[-1])).view(*values.shape[:-1], count, size)


def joined(parts: Tensor, like: Tensor) -> Tensor:
    """Put the blocks of a tensor together again.

    Args:
        parts: What `blocks` gave for the flat tensor, of shape (blocks, size).
        like: A tensor of the original shape.

    Example:
        >>> joined(torch.tensor([[0, 1], [2, 0]]), like=torch.zeros(3))
        tensor([0, 1, 2])
    """
    return parts.flatten()[: like.numel()].view(like.shape)


def invert_(matrices: Tensor) -> Tensor:
    """Replace symmetric positive definite matrices of shape (k, n, n) by their inverses, in place.

    Raises:
        torch.linalg.LinAlgError: If one is not positive definite.

    Example:
        >>> invert_(torch.tensor([[[2.0]], [[4.0]]])).flatten()
        tensor([0.5000, 0.2500])
    """
    for part in _pieces(matrices):
        matrices[part] = torch.cholesky_inverse(torch.linalg.cholesky(matrices[part]))
    return matrices


def constrained_steps(inverses: Tensor, fixed: Tensor, steps: Tensor) -> Tensor:
    """The steps d that minimise ``d' F d`` for each matrix F, where some of their elements are given.

    With H the inverse of F, Q the given elements and ``d_Q`` their values, ``d = H[:, Q] H[Q, Q]^-1 d_Q``.

    Args:
        inverses: H, symmetric positive definite, of shape (k, n, n).
        fixed: Bool, shape (k, n): True where an element is given.
        steps: The given values, shape (k, n); others do not matter.

    Returns:
        Tensor of shape (k, n).

    Example:
        >>> H = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()[None]
        >>> steps = constrained_steps(H, torch.tensor([[True, False]]), torch.tensor([[4.0, 0.0]]).double())
        >>> steps.round(decimals=6).tolist()
        [[4.0, 2.0]]
    """
    found = torch.zeros_like(steps)
    for part in _pieces(inverses):
        inverse, mark, given = inverses[part], fixed[part], steps[part] * fixed[part]
        both = mark[:, :, None] & mark[:, None, :]
        within = torch.where(both, inverse, torch.diag_embed((~mark).to(inverse.dtype)))  # the identity elsewhere
        multipliers = torch.cholesky_solve(given[:, :, None], torch.linalg.cholesky(within))
        found[part] = (inverse @ multipliers)[:, :, 0]
    return found


def _pieces(matrices: Tensor) -> Iterator[slice]:
    size = max(1, _PIECE // max(1, matrices.shape[1:].numel()))
    return (slice(start, start + size) for start in range(0, len(matrices), size))
