"""How far two outputs are apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.running.compat.torch import tree_leaves
from reflow_lightning.running.nested import tensors


def relative_difference(before: Any, after: Any, scale: Any = None) -> float:
    """The largest absolute difference between two outputs, over the largest absolute value of the first.

    Args:
        before: A tensor or number, or several, nested in tuples, lists and dictionaries.
        after: The same of the other network.
        scale: Outputs whose largest absolute values count instead of the first network's; by default there are none.

    Returns:
        The difference, of several tensors the largest. It is infinite if they differ and not all values are finite, or
        the first is zero throughout.

    Raises:
        ValueError: If the outputs differ in the number or the shape of their tensors.

    Example:
        >>> import torch
        >>> relative_difference(torch.tensor([1.0, -4.0]), torch.tensor([1.5, -4.0]))
        0.125
    """
    first, second = _tensors(before), _tensors(after)
    shapes = [tuple(t.shape) for t in first], [tuple(t.shape) for t in second]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"outputs of shapes {shapes[0]} and {shapes[1]} can't be compared: pass the same input to both"
        )
    units = first if scale is None else _tensors(scale)
    triples = zip(first, second, units, strict=True)
    return max((_difference(a, b, unit) for a, b, unit in triples if a.numel()), default=0.0)


_NUMBERS = (Tensor, bool, int, float, complex)


def _tensors(output: Any) -> list[Tensor]:
    found = tree_leaves(output)
    leaves = [part for leaf in found for part in ([leaf] if isinstance(leaf, _NUMBERS) else tensors(leaf))]
    if not leaves and any(leaf is not None for leaf in found):
        raise ValueError(
            f"nothing can be compared in an output of type {type(output).__name__}: let the network return tensors, "
            "tuples, dictionaries or dataclasses"
        )
    return [_real(torch.as_tensor(leaf).detach().cpu()) for leaf in leaves]


def _real(values: Tensor) -> Tensor:
    return (torch.view_as_real(values) if values.is_complex() else values).double()


def _difference(before: Tensor, after: Tensor, unit: Tensor) -> float:
    same = (before == after) | (before.isnan() & after.isnan())
    if same.all():
        return 0.0
    share = float((before - after)[~same].abs().max() / unit.abs().max())
    return math.inf if math.isnan(share) else share
