"""Where the steps of sequences of several lengths stand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Steps(NamedTuple):
    """Where the steps of several sequences stand that are laid one time after the other, the longest sequence first.

    Attributes:
        sizes: How many sequences have a step at each time.
        before: Where the state before each step stands: first come those before all steps, then those after each.
        reversal: Where each step stands if every sequence is read from its end; it is its own inverse.
    """

    sizes: list[int]
    before: Tensor
    reversal: Tensor

    @classmethod
    def of(cls, sizes: Tensor) -> Steps:
        """The places, of the number of sequences that there are at each time.

        Example:
            >>> steps = Steps.of(torch.tensor([2, 2, 1]))
            >>> steps.before.tolist(), steps.reversal.tolist()
            ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])
        """
        starts = sizes.cumsum(0) - sizes
        here = torch.arange(int(sizes[0]), device=sizes.device) < sizes[:, None]  # (times, sequences)
        time, sequence = here.nonzero().unbind(1)
        before = torch.where(time == 0, sequence, starts[time - 1] + sizes[0] + sequence)
        return cls(sizes.tolist(), before, starts[here.sum(0)[sequence] - 1 - time] + sequence)
