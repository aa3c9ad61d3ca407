"""The samples of a batch: how many there are, and some of them."""

from __future__ import annotations

from typing import Any

from reflow_lightning.running.nested import mapped, tensors


def count_samples(batch: Any) -> int:
    """The size of the first dimension of the first tensor that has one; 1 if there is none.

    Example:
        >>> import torch
        >>> count_samples((torch.zeros(8, 3), torch.zeros(8)))
        8
    """
    return next((len(tensor) for tensor in tensors(batch) if tensor.ndim), 1)


def samples_of(batch: Any, start: int, stop: int) -> Any:
    """The samples from ``start`` to before ``stop``, as a batch; values that are no tensors, and scalars, stay.

    Raises:
        ValueError: If tensors differ in their first dimension, so that it can't be the samples of all.

    Example:
        >>> import torch
        >>> samples_of((torch.arange(8), torch.arange(8)), 2, 4)
        (tensor([2, 3]), tensor([2, 3]))
    """
    sizes = {len(tensor) for tensor in tensors(batch) if tensor.ndim}
    if len(sizes) != 1:
        raise ValueError(
            f"a {type(batch).__name__} with tensors of first dimensions {sorted(sizes)} can't be split into samples: "
            "let the first dimension of each be the samples, or use a criterion without gradients of single samples, "
            "'taylor', 'snip', 'wanda' or WoodFisher(gradients='batch')"
        )
    return mapped(lambda tensor: tensor[start:stop] if tensor.ndim else tensor, batch)
