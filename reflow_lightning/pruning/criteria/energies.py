"""Sums of squares of what weights multiply, and the scores of *Wanda* that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from reflow_lightning.pruning.criteria.estimated import not_scored
from reflow_lightning.running.exact import exact, exact_device
from reflow_lightning.running.processes import gather, total


class Energies:
    """Sums over batches and processes, by parameter name, each of a shape that broadcasts to its weight's.

    The inputs of a linear layer are the same for all outputs, so that a sum takes the memory of one row.

    Args:
        weights: The weights, by parameter name. Only their shapes and devices count.

    Example:
        >>> energies = Energies({"weight": torch.ones(5, 2)})
        >>> energies.add("weight", torch.tensor([9.0, 1.0]))
        >>> energies.everywhere()
        {'weight': tensor([9., 1.], dtype=torch.float64)}
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._like = dict(weights)
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, energy: Tensor) -> None:
        """Take in the sums of a call.

        Raises:
            ValueError: If their shape does not broadcast to the weight's.
        """
        weight = self._like[name]
        if not _fits(energy.shape, weight.shape):
            raise ValueError(f"energies have shape {tuple(energy.shape)}, but the weight has {tuple(weight.shape)}")
        energy = energy.to(exact_device(weight)).double()
        self._sums[name] = self._sums[name] + energy if name in self._sums else energy

    def everywhere(self) -> dict[str, Tensor]:
        """The sums over all processes, which all must call this. What no process has seen is missing."""
        shapes = gather({name: tuple(found.shape) for name, found in self._sums.items()})
        found = {}
        for name, weight in self._like.items():
            if seen := [shape[name] for shape in shapes if name in shape]:
                here = torch.zeros(_broadcast(*seen), dtype=torch.float64, device=exact_device(weight))
                found[name] = total(here + self._sums.pop(name) if name in self._sums else here)
        return found


def _fits(shape: torch.Size, into: torch.Size) -> bool:
    try:
        return _broadcast(shape, into) == into
    except RuntimeError:
        return False


def _broadcast(*shapes: Sequence[int]) -> torch.Size:
    shape: torch.Size = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    return shape


@dataclass(frozen=True)
class ByEnergy:
    """A `Criterion`: the absolute value of each weight times the norm of what it multiplies.

    Scores are computed when they are asked for, a parameter at a time.

    Attributes:
        origin: The criterion that found the energies, for messages.
        energies: Sums of squares by parameter name, which broadcast to the weight.

    Example:
        >>> ByEnergy("by hand", {"weight": torch.tensor([9.0, 4.0])})("weight", torch.tensor([[1.0, -2.0]]))
        tensor([[3., 4.]], dtype=torch.float64)
    """

    origin: object
    energies: Mapping[str, Tensor] = field(repr=False)
    repeatable: ClassVar[bool] = True

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``.

        Raises:
            ValueError: If nothing is known for that name.
        """
        if name not in self.energies:
            raise not_scored(self, name)
        return exact(weight).abs_().mul_(self.energies[name].sqrt()).to(weight.device)
