"""Batches whose samples are blended in pairs: more inputs than there are samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.running.forward import INPUT_KEYS


def blended(batch: Any, seed: int) -> Any:
    """A batch whose inputs are blended in pairs, as in mixup (arXiv 1710.09412), each with a share of its own.

    What is blended is the `batch_input`. It stays as it is unless it is a tensor of floating point with several
    samples, since there is nothing between two tokens. So do all other parts of the batch, such as labels.

    Args:
        batch: From a loader; it is not changed.
        seed: For the pairs and shares.

    Example:
        >>> images, labels = blended((torch.tensor([[0.0], [1.0]]), torch.tensor([3, 4])), seed=0)
        >>> images.shape, bool((0 < images).all() and (images < 1).all()), labels.tolist()
        (torch.Size([2, 1]), True, [3, 4])
        >>> blended([torch.tensor([[1, 2], [3, 4]])], seed=0)
        [tensor([[1, 2],
                [3, 4]])]
    """
    if isinstance(batch, Tensor):
        return _blended(batch, seed)
    if isinstance(batch, (tuple, list)) and batch:
        first = blended(batch[0], seed)
        changed = [first, *batch[1:]]
        if first is batch[0]:
            return batch
        return type(batch)(*changed) if hasattr(batch, "_fields") else type(batch)(changed)
    if isinstance(batch, Mapping):
        key = next((key for key in INPUT_KEYS if key in batch), None)
        return batch if key is None else {**batch, key: blended(batch[key], seed)}
    return batch


def _blended(inputs: Tensor, seed: int) -> Tensor:
    plain = inputs.layout is torch.strided and not inputs.is_nested
    if not plain or not inputs.is_floating_point() or inputs.ndim < 2 or len(inputs) < 2:
        return inputs
    generator = torch.Generator().manual_seed(seed)
    distance = int(torch.randint(1, len(inputs), (), generator=generator))  # no sample is blended with itself
    share = torch.rand([len(inputs)] + [1] * (inputs.ndim - 1), generator=generator).to(inputs)
    return inputs + share * (inputs.roll(distance, 0) - inputs)


def is_blended(step: int, share: float) -> bool:
    """Whether a step, counted from 1, is among those that a share of all steps is spread over evenly.

    Example:
        >>> [is_blended(step, 0.5) for step in range(1, 5)], is_blended(1, 0.0), is_blended(1, 1.0)
        ([False, True, False, True], False, True)
    """
    return int(step * share) > int((step - 1) * share)
