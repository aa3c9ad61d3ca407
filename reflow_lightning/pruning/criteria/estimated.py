"""Scores that a criterion found on data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Estimated:
    """Scores that were found on data.

    Attributes:
        origin: The criterion that found them, for messages.
        scores: Scores by parameter name.

    Example:
        >>> import torch
        >>> Estimated("by hand", {"w": torch.ones(2)})("w", torch.zeros(2))
        tensor([1., 1.])
    """

    origin: object
    scores: Mapping[str, Tensor] = field(repr=False)

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """The scores of a weight.

        Raises:
            ValueError: If there are none for that name.
        """
        if name not in self.scores:
            raise not_scored(self, name)
        return self.scores[name].to(weight.device)


def not_scored(criterion: object, name: str) -> ValueError:
    """The error of a criterion that has learnt nothing about a parameter.

    Example:
        >>> raise not_scored("it", "0.weight")
        Traceback (most recent call last):
        ValueError: it holds no scores for '0.weight': estimate them with the same include and exclude
    """
    return ValueError(f"{criterion} holds no scores for '{name}': estimate them with the same include and exclude")
