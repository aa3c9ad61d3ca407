"""The samples among the arguments of a call: the first alone, all of them twice, or any number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.running.arguments import A, batch_size
from reflow_lightning.running.compat.torch import tree_map


def map_samples(
    function: Callable[[Tensor], Any], arguments: A, otherwise: Callable[[Any], Any] = lambda value: value
) -> A:
    """Apply a function to the tensors that hold samples: all of the length `batch_size`.

    Another tensor, such as a mask of an attention layer, is the same for every sample.

    Args:
        function: Is given the tensors that hold samples.
        arguments: Of one call.
        otherwise: Is given each of the other values.

    Example:
        >>> [tuple(t.shape) for t in map_samples(lambda t: t[:1], (torch.zeros(8, 3), torch.zeros(3, 3)))]
        [(1, 3), (3, 3)]
    """
    size = batch_size(arguments)

    def apply(value: Any) -> Any:
        holds_samples = isinstance(value, Tensor) and value.ndim > 0 and len(value) == size
        return function(value) if holds_samples else otherwise(value)

    mapped: A = tree_map(apply, arguments)
    return mapped


def resized(arguments: A, samples: int) -> A:
    """The arguments with another number of samples: the first ones, or all of them again and again.

    Example:
        >>> resized((torch.tensor([1, 2]), "x"), 1), resized((torch.tensor([1, 2]), "x"), 3)
        ((tensor([1]), 'x'), (tensor([1, 2, 1]), 'x'))
    """
    return map_samples(lambda tensor: tensor[torch.arange(samples, device=tensor.device) % len(tensor)], arguments)


def first_sample(arguments: A) -> A:
    """The arguments with the first sample alone, as a batch of one.

    Example:
        >>> first_sample((torch.tensor([1, 2]), 3))
        (tensor([1]), 3)
    """
    return map_samples(lambda tensor: tensor[:1], arguments)


def doubled(arguments: A) -> A:
    """The arguments with every sample twice, in new tensors.

    Example:
        >>> doubled((torch.tensor([1, 2]), 3))
        (tensor([1, 2, 1, 2]), 3)
    """
    return map_samples(lambda tensor: torch.cat([tensor, tensor]), arguments)
