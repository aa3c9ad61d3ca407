"""Connection sensitivity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from reflow_lightning.pruning.criteria.gradient_criterion import GradientCriterion
from reflow_lightning.pruning.criteria.registry import register_criterion


@dataclass(frozen=True)
class Snip(GradientCriterion):
    """The sensitivity of the loss to a factor on each weight, as *SNIP* (arXiv 1810.02340) defines it.

    The score of a weight is ``|w dL/dw|``, divided by the sum over all selected weights; L is the mean loss of all
    samples. The paper applies it to a network at its start, with one batch. In a trained network ``dL/dw`` is near
    zero, and what is left of it comes from the few samples that are still wrong.

    The scores do not depend on how the samples are split into batches, if the loss is a mean over samples.

    Attributes:
        loss: ``(output, batch) -> scalar``. Default: `label_loss`, a cross entropy or the model's own.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(3, 2)
        >>> batch = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> scores = Snip().estimate(model, {"weight": model.weight}, [batch], lambda m, b: m(b[0]))
        >>> round(scores("weight", model.weight).sum().item(), 6)
        1.0
    """

    def term(self, gradient: Tensor, samples: int) -> Tensor:
        """``g_b``, times the samples of the batch."""
        return gradient.mul_(samples)

    def score(self, mean: Tensor, weight: Tensor) -> Tensor:
        """``|w dL/dw|``."""
        return mean.mul_(weight).abs_()

    def scores(self, means: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Divided by the sum over all weights."""
        scores = super().scores(means, weights)
        whole = sum(float(score.sum()) for score in scores.values())
        return {name: score / whole if whole else score for name, score in scores.items()}


register_criterion("snip", Snip())
