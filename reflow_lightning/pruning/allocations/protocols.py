"""What an allocation is: scores -> how many weights each tensor keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from reflow_lightning.pruning.ranking import Cut
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.forward import Forward

Allocation = Callable[[Mapping[str, Scores], int, Mapping[str, int]], Mapping[str, int] | Mapping[str, Cut]]
"""``(scores by name, number of weights to keep, least number by name) -> number to keep by name``.

Where a parameter holds several maps, such as queries, keys and values, each has a name and scores of its own. One that
has ranked the scores already, as all together, may return its cuts in the place of numbers.
"""


@runtime_checkable
class DataAllocation(Protocol):
    """An allocation that needs data: what it finds on them is an ordinary `Allocation`."""

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Allocation:
        """Read the batches once and leave the model as it is; see `DataCriterion.estimate`."""


AnyAllocation = DataAllocation | Allocation | Callable[..., Any] | str
"""An allocation or its name, in the order of `AnyCriterion`."""
