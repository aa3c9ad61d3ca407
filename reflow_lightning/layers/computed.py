"""Weights that a norm computes of stored ones in each forward pass: where these are zero, so are they."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reflow_lightning.running.compat.hooks import computed_by, pre_hooks
from reflow_lightning.running.compat.torch import (
    OldSpectralNorm,
    OldWeightNorm,
    SpectralNorm,
    WeightNorm,
    iterate_power,
    own_parameters,
)
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.sharding import is_sharded

_ITERATIONS = 15
"""Of the power method, as torch does when it begins."""


class Computed(NamedTuple):
    """A weight of a module that `weight_norm` or `spectral_norm` of torch computes, each of the older or newer kind.

    Attributes:
        module: The module.
        name: The name of the weight within it.
        stored: The parameter that holds the weight, element by element up to positive factors.
        path: The name of that parameter within the module.
        norm: What computes the weight.

    Example:
        >>> computed = Computed.of(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "weight")
        >>> computed.path, computed.stored.shape
        ('parametrizations.weight.original1', torch.Size([2, 2]))
    """

    module: nn.Module
    name: str
    stored: nn.Parameter
    path: str
    norm: nn.Module | OldWeightNorm | OldSpectralNorm

    @classmethod
    def of(cls, module: nn.Module, name: str) -> Computed | None:
        """How a weight is computed; ``None`` if in another way, or it is no computed weight."""
        found = _of_new(module, name) if parametrize.is_parametrized(module, name) else _of_old(module, name)
        if found is None:
            return None
        norm, path = found
        parent, _, last = path.rpartition(".")
        stored = own_parameters(module.get_submodule(parent)).get(last)
        if stored is None or nn.parameter.is_lazy(stored) or is_sharded(stored):  # a norm runs over all processes
            return None
        return cls(module, name, stored, path, norm)

    @torch.no_grad()
    def value(self) -> Tensor:
        """The weight as it is now in eval mode; nothing is changed."""
        if isinstance(self.norm, OldSpectralNorm):
            return _tensor(self.norm.compute_weight(self.module, do_power_iteration=False))
        if isinstance(self.norm, OldWeightNorm):
            return _tensor(self.norm.compute_weight(self.module))
        parametrizations = self.module.get_submodule(self.path.rpartition(".")[0])
        with only_training(parametrizations, ()):
            return _tensor(parametrizations())

    @property
    def length(self) -> nn.Parameter:
        """The norms of the parts, which `weight_norm` holds beside the stored parameter."""
        parent, _, last = self.path.rpartition(".")
        name = f"{self.name}_g" if isinstance(self.norm, OldWeightNorm) else last.replace("1", "0")
        return own_parameters(self.module.get_submodule(parent))[name]

    def sizes_of(self, values: Tensor) -> Tensor:
        """The norms of the parts of values in the weight's shape, in the shape of `length`."""
        dim = -1 if self._dim is None else self._dim
        sizes: Tensor = torch.norm_except_dim(values, 2, dim)
        return sizes

    def needed(self, keys: Tensor) -> Tensor:
        """The largest key of each part that has a norm of its own, by which a part of zeros would be divided.

        Args:
            keys: Integers of the weight's shape.

        Returns:
            Bool tensor of that shape.
        """
        dim = self._dim
        parts = keys[None].flatten(1) if dim is None else keys.movedim(dim, 0).flatten(1)
        marks = torch.zeros_like(parts, dtype=torch.bool)
        if parts.numel():
            marks.scatter_(1, parts.argmax(1, keepdim=True), True)
        return marks.view(keys.shape) if dim is None else marks.view(keys.movedim(dim, 0).shape).movedim(0, dim)

    @property
    def parts(self) -> int:
        """Number of parts that have a norm of their own: the rows, or the weight as a whole."""
        return 1 if self._dim is None else self.stored.shape[self._dim]

    @property
    def _dim(self) -> int | None:
        """The dimension along which the parts lie; ``None``: there is one part."""
        dim = self.norm.dim if isinstance(self.norm, (WeightNorm, OldWeightNorm)) else -1
        return None if dim == -1 else dim

    @torch.no_grad()
    def follow(self) -> None:
        """Have what goes with the stored parameter follow a change of it.

        The other weights do not stay as they were: what is divided by the norm grows as that shrinks.
        """
        if isinstance(self.norm, (SpectralNorm, OldSpectralNorm)):
            iterate_power(self.norm, self.module, self.stored.detach(), _ITERATIONS)
        if isinstance(self.norm, (OldWeightNorm, OldSpectralNorm)):
            setattr(self.module, self.name, self.value())  # until the next forward pass computes it anew


def _of_new(module: nn.Module, name: str) -> tuple[nn.Module, str] | None:
    norms = list(module.get_submodule(f"parametrizations.{name}").children())
    if len(norms) != 1 or not isinstance(norms[0], (WeightNorm, SpectralNorm)):
        return None
    return norms[0], f"parametrizations.{name}.{'original1' if isinstance(norms[0], WeightNorm) else 'original'}"


def _of_old(module: nn.Module, name: str) -> tuple[OldWeightNorm | OldSpectralNorm, str] | None:
    hooks = [hook for hook in pre_hooks(module) if computed_by(hook) == name]
    if len(hooks) == 1 and isinstance(hooks[0], OldWeightNorm):
        return hooks[0], f"{name}_v"
    if len(hooks) == 1 and isinstance(hooks[0], OldSpectralNorm):
        return hooks[0], f"{name}_orig"
    return None


def _tensor(value: Tensor) -> Tensor:
    return value.detach()
