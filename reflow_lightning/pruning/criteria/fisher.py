"""Diagonal Fisher information: how much the loss would grow without a weight, to second order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from reflow_lightning.pruning.criteria.gradients import differentiable
from reflow_lightning.pruning.criteria.losses import Loss, label_cross_entropy
from reflow_lightning.pruning.criteria.protocols import Estimated
from reflow_lightning.pruning.criteria.sample_gradients import sample_gradients
from reflow_lightning.pruning.criteria.totals import Totals
from reflow_lightning.running.exact import exact
from reflow_lightning.running.forward import Forward


@dataclass(frozen=True)
class Fisher:
    """Optimal Brain Damage with the diagonal of the empirical Fisher matrix for the Hessian.

    The score of a weight is ``w^2 E[g^2] / 2``, where g is the gradient of the loss of a *single sample*, with the
    label of the data, and the mean is over all samples. *Optimal Brain Damage* (LeCun, Denker and Solla, NeurIPS 1989)
    has the second derivative in the place of ``E[g^2]``.

    The scores do not depend on how the samples are split into batches. Takes the memory of a few copies of the weights.

    Attributes:
        loss: ``(output, batch) -> scalar``. Default: mean cross entropy with the labels of the batch.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2)
        >>> batch = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> scores = Fisher().estimate(model, {"weight": model.weight}, [batch], lambda m, b: m(b[0]))
        >>> scores("weight", model.weight).shape
        torch.Size([2, 3])
    """

    loss: Loss = field(default=label_cross_entropy, repr=False)

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Estimated:
        """See `DataCriterion`."""
        with differentiable(model, weights) as parameters:
            totals = Totals({name: weight.shape for name, weight in weights.items()}, like=weights)
            for gradients in sample_gradients(model, parameters, batches, forward, self.loss):
                squares = {name: exact(g).square().sum(0) for name, g in gradients.items()}
                totals.add(squares, samples=len(next(iter(gradients.values()))))
        means = totals.means()
        return Estimated(self, {name: mean.mul_(exact(weights[name]).square() / 2) for name, mean in means.items()})
