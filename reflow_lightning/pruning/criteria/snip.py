"""Connection sensitivity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from reflow_lightning.pruning.criteria.gradients import batch_gradients, differentiable
from reflow_lightning.pruning.criteria.losses import Loss, label_cross_entropy
from reflow_lightning.pruning.criteria.protocols import Estimated
from reflow_lightning.pruning.criteria.totals import Totals
from reflow_lightning.running.exact import exact
from reflow_lightning.running.forward import Forward


@dataclass(frozen=True)
class Snip:
    """The sensitivity of the loss to a factor on each weight, as *SNIP* (arXiv 1810.02340) defines it.

    The score of a weight is ``|w dL/dw|``, divided by the sum over all selected weights; L is the mean loss of all
    samples. The paper applies it to a network at its start, with one batch. In a trained network ``dL/dw`` is near
    zero, and what is left of it comes from the few samples that are still wrong.

    The scores do not depend on how the samples are split into batches, if the loss is a mean over samples.

    Attributes:
        loss: ``(output, batch) -> scalar``. Default: mean cross entropy with the labels of the batch.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2)
        >>> batch = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> scores = Snip().estimate(model, {"weight": model.weight}, [batch], lambda m, b: m(b[0]))
        >>> round(scores("weight", model.weight).sum().item(), 6)
        1.0
    """

    loss: Loss = field(default=label_cross_entropy, repr=False)

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Estimated:
        """See `DataCriterion`."""
        with differentiable(model, weights) as parameters:
            totals = Totals({name: weight.shape for name, weight in weights.items()}, like=weights)
            for samples, gradients in batch_gradients(model, parameters, batches, forward, self.loss):
                totals.add({name: exact(g).mul_(samples) for name, g in gradients.items()}, samples)
        scores = {name: mean.mul_(exact(weights[name])).abs_() for name, mean in totals.means().items()}
        whole = sum(float(score.sum()) for score in scores.values())
        return Estimated(self, {name: score / whole if whole else score for name, score in scores.items()})
