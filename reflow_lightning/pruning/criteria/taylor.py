"""First-order Taylor importance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from reflow_lightning.pruning.criteria.gradient_criterion import GradientCriterion
from reflow_lightning.pruning.criteria.registry import register_criterion


@dataclass(frozen=True)
class Taylor(GradientCriterion):
    """The squared change of the loss of a batch without a weight, to first order, averaged over batches.

    The score of a weight is ``E_b[(w g_b)^2]``, where ``g_b`` is the gradient of the mean loss of batch b, as in
    *Importance Estimation for Neural Network Pruning* (arXiv 1906.10771), there for whole channels; here batches count
    by their number of samples. So it depends on the batch size: with batches of one sample it ranks as `Fisher` does,
    with a single batch of all samples as `Snip` does.

    Attributes:
        loss: ``(output, batch) -> scalar``. Default: `label_loss`, a cross entropy or the model's own.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(3, 2)
        >>> batch = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> scores = Taylor().estimate(model, {"weight": model.weight}, [batch], lambda m, b: m(b[0]))
        >>> scores("weight", model.weight).shape
        torch.Size([2, 3])
    """

    def term(self, gradient: Tensor, samples: int) -> Tensor:
        """``g_b^2``, times the samples of the batch."""
        return gradient.square().mul_(samples)

    def score(self, mean: Tensor, weight: Tensor) -> Tensor:
        """``w^2 E_b[g_b^2]``."""
        return mean.mul_(weight.square())


register_criterion("taylor", Taylor())
