"""Masks that follow weights which a repair has exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def moved(masks: Mapping[str, Tensor], kept: Mapping[str, int], parameters: Iterable[Tensor]) -> dict[str, Tensor]:
    """Masks of the weights that are not zero now, as many in each tensor as before.

    Where fewer are not zero, the first of those that were kept before count as kept, too.

    Args:
        masks: The masks of before.
        kept: How many weights each keeps.
        parameters: The parameters, in the order of the masks.

    Raises:
        ValueError: If more weights are other than zero than are kept.

    Example:
        >>> before = {"weight": torch.tensor([True, True, False])}
        >>> moved(before, {"weight": 2}, [torch.tensor([0.0, 0.0, 1.0])])["weight"].tolist()
        [True, False, True]
    """
    found = {}
    for (name, mask), parameter in zip(masks.items(), parameters, strict=True):
        now = (parameter != 0).to(mask.device)
        missing = kept[name] - int(now.sum())
        if missing < 0:
            raise ValueError(
                f"'{name}' has {-missing} more weights other than zero than its mask keeps: masks can be moved only "
                "after a repair that keeps their number; after any other, apply() them"
            )
        spare = torch.nonzero((mask & ~now).flatten()).flatten()[:missing]
        found[name] = now.flatten().index_fill(0, spare, True).view_as(mask)
    return found
