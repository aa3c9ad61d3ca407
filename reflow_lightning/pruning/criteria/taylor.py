"""First-order Taylor importance."""

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
class Taylor:
    """The squared change of the loss of a batch without a weight, to first order, averaged over batches.

    The score of a weight is ``E_b[(w g_b)^2]``, where ``g_b`` is the gradient of the mean loss of batch b, as in
    *Importance Estimation for Neural Network Pruning* (arXiv 1906.10771), there for whole channels; here batches count
    by their number of samples. So it depends on the batch size: with batches of one sample it ranks as `Fisher` does,
    with a single batch of all samples as `Snip` does.

    Attributes:
        loss: ``(output, batch) -> scalar``. Default: mean cross entropy with the labels of the batch.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2)
        >>> batch = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> scores = Taylor().estimate(model, {"weight": model.weight}, [batch], lambda m, b: m(b[0]))
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
            for samples, gradients in batch_gradients(model, parameters, batches, forward, self.loss):
                totals.add({name: exact(g).square().mul_(samples) for name, g in gradients.items()}, samples)
        means = totals.means()
        return Estimated(self, {name: mean.mul_(exact(weights[name]).square()) for name, mean in means.items()})
