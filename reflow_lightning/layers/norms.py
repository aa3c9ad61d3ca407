"""Norms: where their channels are, and their scales and biases as maps. Embeddings, which have no map."""

from __future__ import annotations

from functools import cached_property, partial
from types import NoneType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reflow_lightning.layers.affine import AffineMap
from reflow_lightning.layers.layer import (
    Layer,
    NotSupportedError,
    has_own_forward,
    writable,
    writable_of,
)
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.compat.torch import RunningNorm
from reflow_lightning.running.functional import called_with
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.lent import is_lent
from reflow_lightning.running.sharding import is_sharded


class NormLayer(Layer):
    """A norm of channels in dimension 1, with a weight for each, and maybe a bias: BatchNorm, GroupNorm, InstanceNorm.

    A norm without a weight has no map.
    """

    is_norm: ClassVar[bool] = True
    channel_dim: int = 1
    module: Any

    @property
    def maps(self) -> tuple[AffineMap, ...]:
        """See `Layer`."""
        module, kind = self.module, type(self.module).__name__
        if getattr(module, "weight", None) is None:
            return ()
        if not isinstance(getattr(module, "act", None), (nn.Identity, NoneType)):
            raise NotSupportedError(f"a {kind}, which has an activation in it")
        weight = writable(module, "weight")
        if weight.ndim != 1:
            raise NotSupportedError(f"a {kind} over {weight.ndim} dimensions")
        return (AffineMap(self.name, weight.numel(), (weight,), writable_of(module, "bias")),)


class LastNormLayer(NormLayer):
    """A norm over the last dimensions, as `torch.nn.LayerNorm` is, or one like it; also one that takes (N, C, ...)."""

    def __init__(self, module: nn.Module, name: str = "") -> None:
        super().__init__(module, name)
        self.channel_dim = 1 if has_own_forward(module) and _takes_channels_first(module) else -1

    @cached_property
    def _is_plain(self) -> bool:
        return self.channel_dim == 1 or not has_own_forward(self.module) or _scales_by_its_weight(self.module)

    @property
    def maps(self) -> tuple[AffineMap, ...]:
        """See `Layer`."""
        if not self._is_plain:
            kind = type(self.module).__name__
            raise NotSupportedError(f"{kind} does more than to scale and shift: register it with layer_of")
        return super().maps


@torch.no_grad()
def _takes_channels_first(module: nn.Module) -> bool:
    """Whether a norm with a forward of its own normalises dimension 1 alone.

    It is tried on a small input, whose first position is then changed: a norm of that dimension takes the input, and
    puts out the same at all other positions. Its name tells less.
    """
    weight: Tensor | None = getattr(module, "weight", None)
    channels = 0 if weight is None or weight.ndim != 1 else weight.numel()
    if weight is None or channels < 2 or weight.is_meta or nn.parameter.is_lazy(weight) or is_sharded(weight):
        return any(rank in type(module).__name__ for rank in ("1d", "2d", "3d"))  # it can't be tried
    with isolated_rng(), only_training(module, ()):
        return any(_keeps_positions_apart(module, weight, places) for places in ((2, 3), (6,), (1, 2, 3)))


def _keeps_positions_apart(module: nn.Module, weight: Tensor, places: tuple[int, ...]) -> bool:
    values = torch.arange(weight.numel() * 6).sin().to(weight).view(1, -1, *places)
    changed = values.clone()
    changed.flatten(2)[..., 0] += torch.arange(weight.numel()).to(weight)
    lent = {name: _some_like(parameter) for name, parameter in module.named_parameters() if is_lent(parameter)}
    try:
        run = partial(called_with, module, lent) if lent else module.forward
        before, after = run(values), run(changed)
    except Exception:  # a forward of the user's may raise anything on a shape that it does not take
        return False
    if not isinstance(before, Tensor) or before.shape != values.shape:
        return False
    same = (before == after).flatten(2).all(1)[0]
    return bool(same[1:].all()) and not bool(same[0])


def _some_like(parameter: Tensor) -> Tensor:
    """Values to try, unlike each other, for a parameter."""
    return torch.arange(1, 1 + parameter.numel()).cos().view(parameter.shape).to(parameter)


@torch.no_grad()
def _scales_by_its_weight(module: nn.Module) -> bool:
    """Whether a norm with a forward of its own gives ``weight * n + bias``, tried with others on a small input.

    That of Gemma gives ``(1 + weight) * n``, which a factor on the weight does not scale.
    """
    parameters = {name: value.detach() for name, value in module.named_parameters(recurse=False)}
    weight = parameters.get("weight")
    if not parameters.keys() <= {"weight", "bias"} or weight is None or weight.ndim != 1:
        return False
    if any(nn.parameter.is_lazy(value) or value.is_meta or is_sharded(value) for value in parameters.values()):
        return False
    zeros = {name: torch.zeros_like(value) for name, value in parameters.items()}
    tried = {name: _some_like(value) for name, value in parameters.items()}
    values = torch.arange(weight.numel() * 6).sin().to(weight).view(1, 6, -1)
    try:
        with isolated_rng(), only_training(module, ()):
            nothing = called_with(module, zeros, values)
            normalised = called_with(module, zeros | {"weight": torch.ones_like(weight)}, values)
            found = called_with(module, tried, values)
    except Exception:  # a forward of the user's may raise anything
        return False
    if found.shape != values.shape:
        return False
    expected = normalised * tried["weight"] + tried.get("bias", 0)
    return not bool(nothing.any()) and torch.allclose(found, expected, rtol=1e-2, atol=1e-4)


class EmbeddingLayer(Layer):
    """A table that is looked up, and multiplies no signal. A matrix that is tied to it is an embedding too."""

    is_embedding: ClassVar[bool] = True


layer_of.register(RunningNorm, NormLayer)
layer_of.register(nn.GroupNorm, NormLayer)
layer_of.register(nn.LocalResponseNorm, NormLayer)
layer_of.register(nn.LayerNorm, LastNormLayer)
layer_of.register(nn.RMSNorm, LastNormLayer)
layer_of.register("transformers.models.*RMSNorm", LastNormLayer)
layer_of.register("transformers.models.*LayerNorm", LastNormLayer)
layer_of.register(nn.Embedding, EmbeddingLayer)
layer_of.register(nn.EmbeddingBag, EmbeddingLayer)
