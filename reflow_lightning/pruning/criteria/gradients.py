"""Gradients of a loss by chosen weights, and by nothing else of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.pruning.criteria.losses import Loss
from reflow_lightning.pruning.criteria.reach import GRADIENT, Reach
from reflow_lightning.pruning.criteria.samples import count_samples
from reflow_lightning.running.eager import eager
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import only_training, recurrent_gradients

Gradients = dict[str, Tensor]


@contextmanager
def differentiable(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Put a model in eval mode and let the named parameters have gradients; afterwards all is as it was.

    Compiled modules run eagerly meanwhile.

    Example:
        >>> model = nn.Linear(2, 1).requires_grad_(False)
        >>> with differentiable(model, ["weight"]) as parameters:
        ...     torch.autograd.grad(model(torch.ones(1, 2)).sum(), parameters["weight"])[0]
        tensor([[1., 1.]])
        >>> model.weight.requires_grad
        False
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    parameters = {name: named[name] for name in names}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(eager())
        stack.enter_context(only_training(model, ()))
        stack.enter_context(recurrent_gradients(model))
        for parameter in parameters.values():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(True)
        yield parameters


class LossOf(nn.Module):
    """A model and its loss as one module: batch -> scalar."""

    def __init__(self, model: nn.Module, forward: Forward, loss: Loss) -> None:
        super().__init__()
        self.training = model.training
        self.model, self.run, self.loss = model, forward, loss

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch.

        Raises:
            ValueError: If it is no scalar.
        """
        value = self.loss(self.run(self.model, batch), batch)
        if not isinstance(value, Tensor) or value.ndim:
            given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss gave {given}: it must return a scalar tensor, the mean over the samples of a batch")
        return value


def gradients_of(step: LossOf, parameters: Mapping[str, nn.Parameter], batch: Any) -> Gradients:
    """The gradients of the loss of one batch, by name; of a weight that the loss does not depend on there is none.

    Raises:
        ValueError: If the loss is no scalar.
    """
    value = step(batch)
    if not value.requires_grad:
        return {}
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return {name: gradient.detach() for name, gradient in zip(parameters, found, strict=True) if gradient is not None}


def batch_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Iterable[Any], forward: Forward, loss: Loss
) -> Iterator[tuple[int, Gradients]]:
    """The number of samples and the gradients of the loss of every batch. Stands in a `differentiable` block.

    Where processes run together, all must read it to the end, each with its own batches or none.

    Raises:
        ValueError: If the loss is no scalar, or at the end, if it depends on a weight in no batch; see `Reach`.
    """
    step, reach = LossOf(model, forward, loss), Reach(parameters)
    for batch in batches:
        if samples := count_samples(batch):
            found = gradients_of(step, parameters, batch)
            reach.note(found)
            yield samples, found
    reach.check(GRADIENT)
