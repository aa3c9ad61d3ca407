"""What a network is called with: one tensor, or several arguments, of which some hold the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.running.batches import move
from reflow_lightning.running.compat.torch import tree_leaves, tree_map, tree_map_only
from reflow_lightning.running.forward import Forward, batch_input
from reflow_lightning.running.own import own

Inputs = tuple[Any, ...]
"""The positional arguments of one call of a network."""


def as_arguments(example_input: Tensor | Inputs, device: torch.device) -> Inputs:
    """The positional arguments of a call, with their tensors on a device.

    Args:
        example_input: A tensor, or a tuple of all positional arguments. They may nest tensors in lists, tuples and
            dictionaries; what is no tensor stays as it is.
        device: The network's.

    Example:
        >>> as_arguments(torch.ones(1), torch.device("cpu")), as_arguments((torch.ones(1), 2), torch.device("cpu"))
        ((tensor([1.]),), (tensor([1.]), 2))
    """
    given = example_input if isinstance(example_input, tuple) else (example_input,)
    return tuple(move(value, device) for value in given)


def tensors_of(arguments: Inputs) -> list[Tensor]:
    """The tensors among the arguments, in order.

    Example:
        >>> tensors_of((torch.ones(1), 2, [torch.zeros(1)]))
        [tensor([1.]), tensor([0.])]
    """
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]


def batch_size(arguments: Inputs) -> int:
    """The number of samples: the length of the first tensor that has one, or 1.

    Example:
        >>> batch_size((0.5, torch.zeros(8, 3))), batch_size((torch.tensor(1.0),))
        (8, 1)
    """
    return next((len(tensor) for tensor in tensors_of(arguments) if tensor.ndim), 1)


def map_samples(
    function: Callable[[Tensor], Any], arguments: Inputs, otherwise: Callable[[Any], Any] = lambda value: value
) -> Inputs:
    """Apply a function to the tensors that hold samples: those of the length `batch_size`.

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

    mapped: Inputs = tree_map(apply, arguments)
    return mapped


def resized(arguments: Inputs, samples: int) -> Inputs:
    """The arguments with another number of samples: the first ones, or all of them again and again.

    Example:
        >>> resized((torch.tensor([1, 2]), "x"), 1), resized((torch.tensor([1, 2]), "x"), 3)
        ((tensor([1]), 'x'), (tensor([1, 2, 1]), 'x'))
    """
    return map_samples(lambda tensor: tensor[torch.arange(samples, device=tensor.device) % len(tensor)], arguments)


def first_sample(arguments: Inputs) -> Inputs:
    """The arguments with the first sample alone, as a batch of one.

    Example:
        >>> first_sample((torch.tensor([1, 2]), 3))
        (tensor([1]), 3)
    """
    return map_samples(lambda tensor: tensor[:1], arguments)


def doubled(arguments: Inputs) -> Inputs:
    """The arguments with every sample twice, in new tensors.

    Example:
        >>> doubled((torch.tensor([1, 2]), 3))
        (tensor([1, 2, 1, 2]), 3)
    """
    return map_samples(lambda tensor: torch.cat([tensor, tensor]), arguments)


def cast(arguments: Inputs, old: torch.dtype, new: torch.dtype) -> Inputs:
    """The arguments with the tensors of one type in another.

    Example:
        >>> cast((torch.ones(1), torch.arange(1)), torch.float32, torch.float16)
        (tensor([1.], dtype=torch.float16), tensor([0]))
    """
    found: Inputs = tree_map_only(Tensor, lambda t: t.to(new) if t.dtype == old else t, arguments)
    return found


def check_example(arguments: Inputs) -> None:
    """Check that an example tells something.

    Raises:
        ValueError: If it has no sample, or holds NaN or ``None``.
    """
    tensors = tensors_of(arguments)
    if tensors and (batch_size(arguments) == 0 or not any(tensor.numel() for tensor in tensors)):
        raise ValueError(f"example_input of shape {tuple(tensors[0].shape)} is empty: pass at least one sample")
    if any(bool(tensor.isnan().any()) for tensor in tensors):
        raise ValueError("example_input holds NaN, with which nothing can be compared: pass real data")
    if any(value is None for value in arguments):
        raise ValueError("example_input holds None: leave out the arguments that keep their defaults")


def arguments_of(model: nn.Module, batch: Any, count: int, forward: Forward | None) -> Inputs:
    """What a network is called with on a batch.

    Args:
        model: The network.
        batch: From a loader.
        count: How many arguments the network takes, where ``forward`` does not say which.
        forward: ``(model, batch) -> anything``, which runs the model.
    """
    if forward is not None:
        forward(called := _Called(model), own(batch))
        return called.arguments
    return (batch_input(batch),) if count == 1 else tuple(batch[:count])


class _Called(nn.Module):
    """Runs a network, and notes what it is called with."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.arguments: Inputs = ()

    def forward(self, *arguments: Any) -> Any:
        self.arguments = own(arguments)
        return self.model(*arguments)
