"""What a criterion is: a weight -> scores. The lowest scores are pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from reflow_lightning.running.forward import Forward


class Criterion(Protocol):
    """Maps a named weight to scores of the same shape.

    It is asked once about each weight, and its scores are kept, since a function may be slow or draw at random. With an
    attribute ``repeatable = True`` its class says that it gives the same scores each time, at little cost: then scores
    of weights that are spread over processes are made anew rather than kept whole on each.
    """

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""


@runtime_checkable
class StreamedCriterion(Protocol):
    """A criterion that can also give its scores piece by piece, the same ones every time, to save memory."""

    def __call__(self, name: str, weight: Tensor, /) -> Tensor:
        """Score every element of ``weight``."""

    def pieces(self, name: str, weight: Tensor, /, start: int = 0) -> Iterator[Tensor]:
        """The same scores as flat pieces, split like `flat_chunks`.

        Of a parameter that is spread over processes, ``weight`` is the part that is held here, and ``start`` the
        position of its first element in the whole.
        """


@runtime_checkable
class DataCriterion(Protocol):
    """A criterion that needs data: what it finds on them is an ordinary `Criterion`."""

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Criterion:
        """Read the batches once and leave the model as it is.

        Where processes run together, all call it, each with its own batches or none, and all get the same scores.

        Args:
            model: The model, on the device of the batches.
            weights: The weights to be scored, by parameter name; they share the model's memory.
            batches: Batches.
            forward: Runs the model on one.
        """


AnyCriterion = DataCriterion | Criterion | Callable[..., Any] | str
"""A criterion, also one that is called and has no annotations, or its name.

The name comes last, since readers of YAML such as jsonargparse try the types in this order, and everything is a name.
"""


@runtime_checkable
class Compensating(Protocol):
    """A criterion that also knows how the weights that stay make up for those that go."""

    def compensate(self, masks: Mapping[str, Tensor], /) -> Mapping[str, Tensor]:
        """What is to be added to the weights before the masks are applied, by name; zero where a weight goes."""


def is_unsigned(criterion: Criterion) -> bool:
    """Whether a criterion says, by an attribute ``unsigned = True``, that its scores rank fast.

    It promises that no score is below zero, not even -0.0, and that a weight of zero scores zero.

    Example:
        >>> from reflow_lightning.pruning import Magnitude, Random
        >>> is_unsigned(Magnitude()), is_unsigned(Random())
        (True, False)
    """
    return bool(getattr(criterion, "unsigned", False))
