"""Watch the inputs of BatchNorm layers while the stored statistics are in force."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching_inputs
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.labels import batch_labels
from reflow_lightning.running.processes import gather, together
from reflow_lightning.signal.statistics import by_channel, merge_moments, moments

Change = Callable[[Tensor], Tensor]
"""Changes the input of the first layer."""

_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class Entry(NamedTuple):
    """What went into the first layer with weights: its name, moments by channel (3, C), least and greatest value."""

    name: str
    moments: Tensor
    least: float
    greatest: float


@dataclass
class Observation:
    """What batches looked like to a model.

    Attributes:
        layers: By BatchNorm layer, in the order of the forward pass, a tensor (batches, 2, 3, C): `moments` over the
            samples of a batch of, first, the mean of a sample and, second, its mean squared deviation from the stored
            mean.
        entries: One a batch.
        labels: One tensor a batch that has labels.
        classes: Number of outputs, if the model returned a matrix.
    """

    layers: dict[str, list[Tensor]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    classes: int | None = None
    batches: int = 0


def sample_moments(values: Tensor, centre: Tensor) -> Tensor:
    """Moments over samples of their mean, and of their mean squared deviation from a centre, by channel.

    They tell the sampling noise, which moments of single values do not: samples are independent, but neighbouring
    positions are not.

    Args:
        values: Activations (N, C, ...).
        centre: Tensor of shape (C,).

    Returns:
        Float64 tensor of shape (2, 3, C), on the CPU.

    Example:
        >>> sample_moments(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]]), torch.zeros(1))[:, 1].flatten().tolist()
        [2.0, 4.5]
    """
    flat = by_channel(values).float()
    means = flat.mean(2)
    squares = (flat - centre.float()[:, None]).square_().mean(2)
    return torch.stack([moments(means), moments(squares)]).cpu()


@torch.no_grad()
def observe(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Forward,
    change: Change | None = None,
    training: Sequence[nn.Module] = (),
) -> Observation:
    """Run the model in evaluation mode and watch; on all processes together. The model is left unchanged.

    Args:
        model: Any module.
        batches: Batches on the model's device.
        forward: Runs the model on a batch.
        change: Changes the input of the first layer with weights.
        training: Modules in train mode, such as dropout.

    Returns:
        What all processes saw.
    """
    layers = batchnorm_layers(model)
    entrances = {name: module for name, module in model.named_modules() if isinstance(module, _FIRST)}
    here = Observation()
    first: list[str] = []  # the layer that ran first in this batch

    def enter(name: str, call: Call) -> Any:
        if first:
            return None
        first.append(name)
        values = call.argument(0, "input")
        by = values.flatten()[:, None] if isinstance(entrances[name], nn.Linear) else values
        here.entries.append(Entry(name, moments(by).cpu(), values.min().item(), values.max().item()))
        if change is None:
            return None
        args, kwargs = call.args, call.kwargs
        return ((change(values), *args[1:]), kwargs) if args else (args, {**kwargs, "input": change(values)})

    def take_in(name: str, call: Call) -> None:
        centre = layers[name].get_buffer("running_mean")
        here.layers.setdefault(name, []).append(sample_moments(call.argument(0, "input"), centre))

    with (
        only_training(model, training),
        watching_inputs(model, entrances, enter),
        watching_inputs(model, layers, take_in),
        together("drift check"),
    ):
        for batch in batches:
            first.clear()
            output = forward(model, batch)
            here.batches += 1
            labels = batch_labels(batch)
            if labels is not None:
                here.labels.append(labels.cpu())
                if isinstance(output, Tensor) and output.ndim == 2:
                    here.classes = output.shape[1]
    return both(*gather(here))


def both(*parts: Observation) -> Observation:
    """What several observations saw, as one."""
    whole = Observation()
    for part in parts:
        for name, found in part.layers.items():
            whole.layers.setdefault(name, []).extend(found)
        whole.entries += part.entries
        whole.labels += part.labels
        whole.classes = whole.classes or part.classes
        whole.batches += part.batches
    return whole


def merged(found: list[Tensor]) -> Tensor:
    """Merge `sample_moments` of several batches: the moments of all their samples, (2, 3, C)."""
    parts = torch.stack(found)
    return torch.stack([merge_moments(parts[:, 0]), merge_moments(parts[:, 1])])
