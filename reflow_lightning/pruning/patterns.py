"""N:M patterns: of every M weights in a row at most N stay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reflow_lightning.layers import Weight
from reflow_lightning.pruning.scores import Scores


@dataclass(frozen=True)
class Pattern:
    """At most ``n`` of every ``m`` weights that follow each other along the input channels stay.

    Example:
        >>> Pattern.parse("2:4")
        Pattern(n=2, m=4)
        >>> Pattern.parse("2:4").sparsity
        0.5
    """

    n: int
    m: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``"N:M"``.

        Raises:
            ValueError: If it is not of that form, or N is not in [1, M).
        """
        match = re.fullmatch(r"(\d+):(\d+)", str(text))
        if not match or not 0 < int(match[1]) < int(match[2]):
            raise ValueError(f"pattern={text!r} is not 'N:M' with 0 < N < M, such as '2:4'")
        return cls(int(match[1]), int(match[2]))

    @property
    def sparsity(self) -> float:
        """The share of weights that the pattern prunes."""
        return 1 - self.n / self.m

    def check(self, name: str, shape: Sequence[int], known: Weight) -> None:
        """Check that the pattern fits a weight.

        Args:
            name: Name of the parameter.
            shape: Its shape.
            known: How it is laid out.

        Raises:
            ValueError: If M does not divide the number of inputs that an output has.
        """
        dim, groups = known.inputs, known.groups
        if len(shape) < 2 or shape[dim] % (groups * self.m):
            raise ValueError(
                f"pattern='{self.n}:{self.m}' needs dimension {dim} of '{name}' {tuple(shape)}, along the inputs, to "
                f"be a multiple of {self.m}{f' in each of {groups} groups' if groups > 1 else ''}: leave it out with "
                f"exclude=['{name}']"
            )

    def outside(self, scores: Scores, dim: int = 1) -> torch.Tensor:
        """The weights that the pattern prunes: bool, of the weight's shape; of equal scores the first go.

        Args:
            scores: Scores of the weight.
            dim: The dimension that runs along its input channels.
        """
        shape = scores.weight.shape
        if not scores.weight.numel():
            return torch.zeros(shape, dtype=torch.bool, device=scores.weight.device)
        keys = torch.cat(list(scores.keys(scores.dtype))).view(shape).movedim(dim, -1)
        groups = keys.reshape(*keys.shape[:-1], -1, self.m)
        order = groups.argsort(dim=-1, stable=True)  # ascending: the first M - N are pruned
        pruned = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., : self.m - self.n], True)
        return pruned.flatten(-2).movedim(-1, dim).contiguous()
