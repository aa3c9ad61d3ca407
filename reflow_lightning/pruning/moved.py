"""Masks that follow weights which a repair has exchanged."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(name: str, mask: Tensor, kept: int, parameter: Tensor) -> Tensor:
    """The mask of the weights of a tensor that are not zero now, as many as before.

    Where fewer are not zero, the first of those that were kept before count as kept, too.

    Args:
        name: The tensor's name, for messages.
        mask: The mask of before.
        kept: How many weights it keeps.
        parameter: The tensor.

    Raises:
        ValueError: If more weights are other than zero than are kept.

    Example:
        >>> moved("weight", torch.tensor([True, True, False]), 2, torch.tensor([0.0, 0.0, 1.0])).tolist()
        [True, False, True]
    """
    now = (parameter != 0).to(mask.device)
    missing = kept - int(now.count_nonzero())
    if missing < 0:
        raise ValueError(
            f"'{name}' has {-missing} more weights other than zero than its mask keeps: masks can be moved only "
            "after a repair that keeps their number; after any other, apply() them"
        )
    spare = torch.nonzero((mask & ~now).flatten()).flatten()[:missing]
    return now.flatten().index_fill(0, spare, True).view_as(mask)
