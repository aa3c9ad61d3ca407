"""Sums by parameter name over batches and processes, in float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.processes import total


class Totals:
    """Running sums, and the number of samples that they are over.

    Args:
        shapes: Shape of each sum, by name.
        like: The weights, by name: a sum lies on the device of its weight, or on the CPU if that has no float64.

    Example:
        >>> totals = Totals({"w": (2,)}, like={"w": torch.ones(2)})
        >>> totals.add({"w": torch.tensor([1.0, 3.0])}, samples=2)
        >>> totals.means()
        {'w': tensor([0.5000, 1.5000], dtype=torch.float64)}
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], like: Mapping[str, Tensor]) -> None:
        self.sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=exact_device(like[name]))
            for name, shape in shapes.items()
        }
        self.samples = 0

    def add(self, values: Mapping[str, Tensor], samples: int = 0) -> None:
        """Take in what some samples add to the sums."""
        for name, value in values.items():
            self.sums[name] += value.to(self.sums[name].device)
        self.samples += samples

    def everywhere(self) -> dict[str, Tensor]:
        """The sums over all processes, which all must call this. The running sums themselves are given away."""
        sums, self.sums = self.sums, {}
        return {name: total(sums.pop(name)) for name in list(sums)}

    def means(self) -> dict[str, Tensor]:
        """The sums divided by the number of samples, both over all processes, which all must call this."""
        samples = max(1.0, float(total(torch.tensor(float(self.samples), dtype=torch.float64))))
        return {name: everywhere.div_(samples) for name, everywhere in self.everywhere().items()}
