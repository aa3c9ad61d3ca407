"""Diagonal Fisher information: how much the loss would grow without a weight, to second order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reflow_lightning.pruning.criteria.gradient_criterion import GradientCriterion
from reflow_lightning.pruning.criteria.gradients import Gradients
from reflow_lightning.pruning.criteria.registry import register_criterion
from reflow_lightning.pruning.criteria.sample_gradients import sample_gradients
from reflow_lightning.running.forward import Forward


@dataclass(frozen=True)
class Fisher(GradientCriterion):
    """Optimal Brain Damage with the diagonal of the empirical Fisher matrix for the Hessian.

    The score of a weight is ``w^2 E[g^2] / 2``, where g is the gradient of the loss of a *single sample*, with the
    label of the data, and the mean is over all samples. *Optimal Brain Damage* (LeCun, Denker and Solla, NeurIPS 1989)
    uses the second derivative instead of ``E[g^2]``.

    The scores do not depend on how the samples are split into batches. Takes the memory of a few copies of the weights.

    Attributes:
        loss: ``(output, batch) -> scalar``. Default: `label_loss`, a cross entropy or the model's own.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2)
        >>> batch = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> scores = Fisher().estimate(model, {"weight": model.weight}, [batch], lambda m, b: m(b[0]))
        >>> scores("weight", model.weight).shape
        torch.Size([2, 3])
    """

    def gradients(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Iterable[Any], forward: Forward
    ) -> Iterator[tuple[int, Gradients]]:
        """Gradients of the loss of every single sample, some at a time, of shape (samples, *shape of the weight)."""
        return sample_gradients(model, parameters, batches, forward, self.loss)

    def term(self, gradient: Tensor, samples: int) -> Tensor:
        """The sum of g^2."""
        return gradient.square().sum(0)

    def score(self, mean: Tensor, weight: Tensor) -> Tensor:
        """``w^2 E[g^2] / 2``."""
        return mean.mul_(weight.square() / 2)


register_criterion("fisher", Fisher())
