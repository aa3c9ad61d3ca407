"""A criterion that is asked once about each weight."""

from __future__ import annotations

from torch import Tensor

from reflow_lightning.pruning.criteria.protocols import Criterion, is_unsigned


class AskedOnce:
    """The scores of a criterion, kept by name, since a function may be slow or draw at random.

    Args:
        criterion: One that gives whole scores.

    Example:
        >>> import torch
        >>> scores = AskedOnce(lambda name, weight: torch.rand(weight.shape))
        >>> torch.equal(scores("w", torch.ones(3)), scores("w", torch.ones(3)))
        True
    """

    def __init__(self, criterion: Criterion) -> None:
        self._criterion = criterion
        self._scores: dict[str, Tensor] = {}
        self.unsigned = is_unsigned(criterion)

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """The scores of a weight, which must be the same each time."""
        if name not in self._scores:
            self._scores[name] = self._criterion(name, weight)
        return self._scores[name]

    def __repr__(self) -> str:
        return repr(self._criterion)
