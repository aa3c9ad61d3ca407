"""Masks and the parameters that they belong to, found by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from reflow_lightning.pruning.bit_mask import BitMasks
from reflow_lightning.running.sharding import reshard
from reflow_lightning.running.shards import check_placed, local, whole_like


def tensors_of(model: nn.Module, shapes: Mapping[str, torch.Size]) -> list[Tensor]:
    """The model's parameters that masks belong to, or buffers, in the order of the masks.

    Args:
        model: The model.
        shapes: The shape of each mask by name.

    Raises:
        ValueError: If a name is missing in the model, or has another shape there, or waits for a sum over processes.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> tensors_of(model, {"weight": torch.Size([1, 2])})[0] is model.weight
        True
    """
    reshard(model)
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    if not shapes.keys() <= named.keys():  # an average of weights may lie in a buffer
        named |= {name: buffer for name, buffer in model.named_buffers() if name not in named}
    for name, shape in shapes.items():
        if name not in named:
            raise ValueError(f"mask '{name}' has no parameter in {type(model).__name__}: use the model it is of")
        if named[name].shape != shape:
            raise ValueError(
                f"mask '{name}' has shape {tuple(shape)}, the model's parameter {tuple(named[name].shape)}: "
                "use the model it is of"
            )
        check_placed(name, named[name])
    return [named[name] for name in shapes]


def held_here(model: nn.Module, masks: BitMasks) -> Iterator[tuple[Tensor, Tensor]]:
    """The model's parameters and their masks, as far as this process holds them, on the parameters' devices.

    One mask is made after the other. The parameters' values share the model's memory.

    Raises:
        ValueError: At once, if the masks do not fit the model.

    Example:
        >>> from reflow_lightning import Masks
        >>> [(values, mask)] = held_here(nn.Linear(2, 1), Masks({"weight": torch.tensor([[True, False]])}))
        >>> values.shape, mask
        (torch.Size([1, 2]), tensor([[ True, False]]))
    """
    tensors = [tensor.detach() for tensor in tensors_of(model, masks.shapes)]
    return ((local(t), local(whole_like(t, mask))) for t, mask in zip(tensors, masks.values(), strict=True))
