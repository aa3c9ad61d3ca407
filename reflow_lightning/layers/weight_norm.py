"""Networks whose weights `weight_norm` computes, as plain ones that repairs can read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reflow_lightning.layers.computed import Computed
from reflow_lightning.layers.find import known_layers
from reflow_lightning.running.compat.hooks import forget_pre_hook
from reflow_lightning.running.compat.structure import remember_structure
from reflow_lightning.running.compat.torch import OldWeightNorm, WeightNorm
from reflow_lightning.running.inference import writing
from reflow_lightning.running.lent import is_lent


def norms_in(model: nn.Module) -> list[Computed]:
    """The weights of known layers that `weight_norm` computes, in its older or newer form, and nothing else changes.

    Example:
        >>> [norm.path for norm in norms_in(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))]
        ['parametrizations.weight.original1']
    """
    layers = (layer for _, layer in known_layers(model) if not isinstance(layer.module, nn.RNNBase))  # has copies
    found = (Computed.of(layer.module, weight.name) for layer in layers for weight in layer.weights)
    return [norm for norm in found if norm is not None and _can_be_taken_off(norm)]


def _can_be_taken_off(norm: Computed) -> bool:
    alone = not parametrize.is_parametrized(norm.module) or len(norm.module.parametrizations) == 1  # type: ignore[arg-type]
    return alone and isinstance(norm.norm, (WeightNorm, OldWeightNorm)) and not is_lent(norm.stored)


@contextmanager
def without_weight_norm(*models: nn.Module | None) -> Iterator[None]:
    """A block in which the weights that `weight_norm` computes are plain parameters.

    Afterwards the norm computes what was written into them: ``g`` is the norm of a row, and ``v`` its direction, in the
    length that it had, so that a training goes on at its pace. A row of zeros keeps its direction, of length 0. If the
    block raises, the parameters are as they were.

    Args:
        *models: Networks; ``None`` is none.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> with without_weight_norm(layer), torch.no_grad():
        ...     _ = layer.weight.mul_(3.0)
        >>> before = layer.weight.clone()
        >>> list(dict(layer.named_parameters()))[1:], bool(layer.weight.allclose(before))
        (['parametrizations.weight.original0', 'parametrizations.weight.original1'], True)
    """
    with ExitStack() as stack:
        taken = [_take_off(norm, stack) for model in models if model is not None for norm in norms_in(model)]
        yield
        writes = [write for look in taken if (write := look()) is not None]
    for write in writes:
        write()


@torch.no_grad()
def _take_off(norm: Computed, stack: ExitStack) -> Callable[[], Callable[[], None] | None]:
    """Make the weight a parameter until the stack ends; then ask whether it changed, and write it to the norm."""
    module, name = norm.module, norm.name
    length = norm.length
    before = norm.value().clone()
    weight = nn.Parameter(before.clone(), requires_grad=norm.stored.requires_grad)
    stack.callback(remember_structure(module))
    if isinstance(norm.norm, OldWeightNorm):
        forget_pre_hook(module, norm.norm)
        stack.callback(vars(module).__setitem__, name, vars(module).pop(name))
        delattr(module, f"{name}_g")
        delattr(module, f"{name}_v")
    else:
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
    module.register_parameter(name, weight)

    def look() -> Callable[[], None] | None:
        return None if torch.equal(weight, before) else lambda: _write(norm, length, weight.detach())

    return look


@torch.no_grad()
def _write(norm: Computed, length: nn.Parameter, weight: Tensor) -> None:
    sizes = norm.sizes_of(weight)
    stored = norm.stored.detach()
    with writing(norm.module):
        direction = weight * norm.sizes_of(stored) / torch.where(sizes > 0, sizes, 1.0)
        stored.copy_(torch.where(sizes > 0, direction, stored))
        length.detach().copy_(sizes)
    norm.follow()
