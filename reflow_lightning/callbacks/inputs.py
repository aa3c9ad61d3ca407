"""Is the network calibrated on what it is trained on?  What its layers receive in both, compared once in a fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from reflow_lightning.layers import Layer, known_layers
from reflow_lightning.running.compat.torch import is_compiled
from reflow_lightning.running.hooks import Call
from reflow_lightning.running.names import few

_SHIFT = 1.0
"""So many standard deviations between two means are more than an augmentation makes."""

_STRETCH = 3.0
"""So is this ratio between two standard deviations."""


class Look(NamedTuple):
    """What a tensor looks like: its shape without the samples, its mean and its standard deviation."""

    shape: tuple[int, ...]
    mean: float
    std: float

    @classmethod
    @torch.no_grad()
    def of(cls, values: Tensor) -> Look:
        """Look at a tensor.

        Example:
            >>> Look.of(torch.tensor([[1.0], [3.0]]))
            Look(shape=(1,), mean=2.0, std=1.0)
        """
        exact = values.detach().double()
        return cls(tuple(values.shape[1:]), exact.mean().item(), exact.std(correction=0).item())

    def is_near(self, other: Look) -> bool:
        """Whether they may differ by an augmentation alone."""
        scale = max(self.std, other.std)
        if abs(self.mean - other.mean) > _SHIFT * scale:
            return False
        return scale <= _STRETCH * min(self.std, other.std) + 1e-12

    def __str__(self) -> str:
        return f"mean {self.mean:.3g} and std {self.std:.3g}"


class Inputs:
    """What each layer of a model gets first in a pass, in the order of the calls; made to listen to its calls."""

    def __init__(self) -> None:
        self.looks: dict[str, Look] = {}

    def __call__(self, name: str, call: Call) -> None:
        """Take note of a call."""
        values = call.first if call.args or call.kwargs else None
        if name not in self.looks and can_be_looked_at(values):
            self.looks[name] = Look.of(values)


def watched_layers(model: nn.Module, trained: Collection[int]) -> list[str]:
    """The layers whose inputs are compared: all that have a trained weight.

    There are none in a compiled model, which has to run as it is.

    Args:
        model: Any module.
        trained: The ids of the parameters that are trained.
    """
    compiled = any(map(is_compiled, model.modules()))
    return [] if compiled else [name for name, layer in known_layers(model) if _is_trained(layer, trained)]


def _is_trained(layer: Layer, trained: Collection[int]) -> bool:
    return bool(layer.weights) and not layer.is_norm and any(id(p) in trained for p in layer.module.parameters())


def difference(trial: Mapping[str, Look], training: Mapping[str, Look]) -> str:
    """How the inputs of a trial differ from the training's, in words; ``""`` if they are near enough.

    Example:
        >>> a, b = Look((3,), 0.0, 1.0), Look((3,), 2.0, 1.0)
        >>> difference({"net.0": a}, {"net.0": b})
        "layer 'net.0' gets values of mean 0 and std 1, in the training of mean 2 and std 1"
        >>> difference({"net.0": a}, {"net.0": a, "net.1": b})
        "the training reaches 'net.1' too"
    """
    if not training:
        return ""
    first = next(iter(training))
    if first in trial and not trial[first].is_near(training[first]):
        return f"layer '{first}' gets values of {trial[first]}, in the training of {training[first]}"
    missing = [name for name in training if name not in trial]
    if missing:
        return f"the training reaches {few(map(repr, missing), what='layers')} too"
    return ""


def looks_of_parts(batch: Any) -> dict[str, Look]:
    """What the parts of a batch look like, each by its name as `as_forward` takes it.

    Example:
        >>> looks_of_parts({"image": torch.ones(2, 3)})
        {"batch['image']": Look(shape=(3,), mean=1.0, std=0.0)}
    """
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(batch, Mapping):
        parts = batch.items()
    elif isinstance(batch, (list, tuple)):
        parts = enumerate(batch)
    named = ((f"batch[{key!r}]", part) for key, part in parts)
    return {name: Look.of(part) for name, part in named if can_be_looked_at(part)}


def can_be_looked_at(values: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor of numbers that have a mean."""
    return isinstance(values, Tensor) and values.is_floating_point() and values.numel() > 0
