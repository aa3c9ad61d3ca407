"""What criteria have in common that take the mean of something over gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from reflow_lightning.pruning.criteria.estimated import Estimated
from reflow_lightning.pruning.criteria.gradients import Gradients, batch_gradients, differentiable
from reflow_lightning.pruning.criteria.losses import Loss, label_loss
from reflow_lightning.pruning.criteria.protocols import Criterion
from reflow_lightning.pruning.criteria.totals import Totals
from reflow_lightning.running.exact import exact
from reflow_lightning.running.forward import Forward


@dataclass(frozen=True)
class GradientCriterion(ABC):
    """Scores from the mean, over all samples, of a term that every gradient gives.

    A subclass says which gradients it takes, what each adds to the sums, and how means become scores.

    Attributes:
        loss: ``(output, batch) -> scalar``. Default: `label_loss`, a cross entropy or the model's own.
    """

    loss: Loss = field(default=label_loss, repr=False)

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Criterion:
        """See `DataCriterion`.

        Raises:
            ValueError: If no gradient reaches a weight; see `Reach`.
        """
        with differentiable(model, weights) as parameters:
            totals = Totals({name: weight.shape for name, weight in weights.items()}, like=weights)
            for samples, gradients in self.gradients(model, parameters, batches, forward):
                totals.add({name: self.term(exact(g), samples) for name, g in gradients.items()}, samples)
        return Estimated(self, self.scores(totals.means(), weights))

    def gradients(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Iterable[Any], forward: Forward
    ) -> Iterator[tuple[int, Gradients]]:
        """The number of samples and the gradients that are taken together: here of the mean loss of each batch."""
        return batch_gradients(model, parameters, batches, forward, self.loss)

    @abstractmethod
    def term(self, gradient: Tensor, samples: int) -> Tensor:
        """What a gradient adds to the sum of its weight.

        Args:
            gradient: Float64, as `gradients` gave it; may be changed in place.
            samples: Samples that it is of.

        Returns:
            Float64 tensor of the weight's shape.
        """

    @abstractmethod
    def score(self, mean: Tensor, weight: Tensor) -> Tensor:
        """The scores of one weight.

        Args:
            mean: The sum of its terms divided by the number of samples, in float64; may be changed in place.
            weight: Its values in float64; may be changed in place.
        """

    def scores(self, means: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scores of all weights, by name."""
        return {name: self.score(mean, exact(weights[name])) for name, mean in means.items()}
