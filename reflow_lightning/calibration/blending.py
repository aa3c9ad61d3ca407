"""Batches whose samples are blended in pairs: more inputs than there are samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from reflow_lightning.running.forward import batch_input
from reflow_lightning.running.nested import mapped


def blended(batch: Any, seed: int) -> Any:
    """A batch whose inputs are blended in pairs, as in mixup (arXiv 1710.09412), each with a share of its own.

    It blends the `batch_input`. In a mapping with other keys it blends the only tensor of more than one dimension. The
    first dimension is taken to be the samples. If the input is not a dense tensor of finite floating-point numbers with
    several samples, the batch stays as it is: there is nothing between two tokens. All other parts of the batch, such
    as labels, never change.

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
    inputs = _inputs(batch)
    if isinstance(batch, PackedSequence) or not _can_be_blended(inputs):
        return batch
    found = _blended(inputs, seed)
    return mapped(lambda _: found, batch, is_leaf=lambda value: value is inputs)


def is_blended(step: int, share: float) -> bool:
    """Whether a step, counted from 1, is among those that a share of all steps is spread over evenly.

    Example:
        >>> [is_blended(step, 0.5) for step in range(1, 5)], is_blended(1, 0.0), is_blended(1, 1.0)
        ([False, True, False, True], False, True)
    """
    return int(step * share) > int((step - 1) * share)


def _inputs(batch: Any) -> Any:
    found = batch_input(batch)
    if isinstance(found, Mapping):  # before labels
        found = batch_input(found)
    if isinstance(found, Mapping):
        wide = [value for value in found.values() if isinstance(value, Tensor) and value.ndim > 1]
        return wide[0] if len(wide) == 1 else None
    return found


def _can_be_blended(inputs: Any) -> bool:
    if not isinstance(inputs, Tensor) or inputs.layout is not torch.strided or inputs.is_nested:
        return False
    several = inputs.ndim > 1 and len(inputs) > 1
    return several and inputs.is_floating_point() and bool(inputs.isfinite().all())


def _blended(inputs: Tensor, seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    distance = int(torch.randint(1, len(inputs), (), generator=generator, device="cpu"))  # none with itself
    sizes = [len(inputs)] + [1] * (inputs.ndim - 1)
    share = torch.rand(sizes, generator=generator, device="cpu").to(inputs)
    return inputs + share * (inputs.roll(distance, 0) - inputs)
