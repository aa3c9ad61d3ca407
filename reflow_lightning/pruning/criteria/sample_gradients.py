"""Gradients of the loss of single samples."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from reflow_lightning.pruning.criteria.gradients import Gradients, LossOf, gradients_of
from reflow_lightning.pruning.criteria.losses import Loss
from reflow_lightning.pruning.criteria.reach import GRADIENT, Reach
from reflow_lightning.pruning.criteria.samples import count_samples, samples_of
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.functional import called_with
from reflow_lightning.running.nested import mapped

_PIECE = 1 << 24  # values of gradients that are held at once, or one sample's: bounds the memory


def sample_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Iterable[Any], forward: Forward, loss: Loss
) -> Iterator[tuple[int, Gradients]]:
    """The gradients of the loss of every single sample, some at a time. Stands in a `differentiable` block.

    They are computed together by `torch.func` where it can run the model and finds what ordinary differentiation finds
    for the first samples, else one by one, as for recurrent layers. Where processes run together, all must read it to
    the end, each with its own batches or none.

    Returns:
        The number of samples, and tensors of shape (samples, *shape of the weight), by name.

    Raises:
        ValueError: If a batch can't be split, the loss is no scalar, or at the end, if it depends on a weight in no
            batch; see `Reach`.
    """
    step, reach = LossOf(model, forward, loss), Reach(parameters)
    at_once = max(1, _PIECE // sum(parameter.numel() for parameter in parameters.values()))
    vectorised = None
    for batch in batches:
        for start in range(0, count_samples(batch), at_once):
            samples = samples_of(batch, start, min(start + at_once, count_samples(batch)))
            if vectorised is None:
                vectorised = _can_be_vectorised(step, parameters, samples)
            found = (together_by_vmap if vectorised else one_by_one)(step, parameters, samples)
            if vectorised and reach.missing:  # torch.func gives zeros to a weight that the loss does not depend on
                reach.note(gradients_of(step, parameters, samples))
            reach.note({name: rows for name, rows in found.items() if not vectorised or name not in reach.missing})
            yield count_samples(samples), found
    reach.check(GRADIENT)


def one_by_one(step: LossOf, parameters: Mapping[str, nn.Parameter], batch: Any) -> Gradients:
    """The gradients of single samples, by one backward pass for each; of weights that one of them depends on."""
    found = [gradients_of(step, parameters, samples_of(batch, i, i + 1)) for i in range(count_samples(batch))]
    return {
        name: torch.stack([gradients[name] if name in gradients else torch.zeros_like(weight) for gradients in found])
        for name, weight in parameters.items()
        if any(name in gradients for gradients in found)
    }


def together_by_vmap(step: LossOf, parameters: Mapping[str, nn.Parameter], batch: Any) -> Gradients:
    """The gradients of single samples, by one backward pass for all."""

    def value(weights: Gradients, sample: Any) -> Tensor:
        loss: Tensor = called_with(step, weights, mapped(lambda tensor: tensor[None], sample))
        return loss

    weights = {f"model.{name}": parameter.detach() for name, parameter in parameters.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop because we have not yet implemented.*")
        found = vmap(grad(value), in_dims=(None, 0), randomness="different")(weights, batch)
    return {name: found[f"model.{name}"].detach() for name in parameters}


def _can_be_vectorised(step: LossOf, parameters: Mapping[str, nn.Parameter], batch: Any) -> bool:
    """Whether `torch.func` finds the same for the first two samples; some modules hide their weights from it."""
    first = samples_of(batch, 0, 2)
    expected = one_by_one(step, parameters, first)
    try:
        found = together_by_vmap(step, parameters, first)
    except Exception:  # it may raise anything for what it can't run
        return False
    return all(_close(found[name], gradient) for name, gradient in expected.items())


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(torch.linalg.vector_norm(b.double()))
    tolerance = max(1e-3, 10 * torch.finfo(b.dtype).eps)
    return float(torch.linalg.vector_norm(a.double() - b.double())) <= tolerance * scale
