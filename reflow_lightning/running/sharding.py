"""Models that are spread over processes: by `fully_shard` (FSDP2), by `parallelize_module` (tensor parallelism)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from reflow_lightning.running.compat.sharding import (
    casts_values,
    has_forward_methods,
    is_parallelized,
    keeps_whole,
    prepare_sharded,
    shard_groups,
)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes, a DTensor.

    Example:
        >>> is_sharded(nn.Linear(2, 2).weight)
        False
    """
    return hasattr(tensor, "device_mesh")


def sharded_modules(model: nn.Module) -> list[Any]:
    """The modules that `fully_shard` was applied to; the outermost first.

    Example:
        >>> sharded_modules(nn.Linear(2, 2))
        []
    """
    if not dist.is_available():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def is_spread(model: nn.Module) -> bool:
    """Whether parameters of a model are spread over processes, by `fully_shard` or by tensor parallelism.

    Example:
        >>> is_spread(nn.Linear(2, 2))
        False
    """
    return bool(sharded_modules(model)) or any(map(is_sharded, model.parameters()))


def splits_layers(model: nn.Module) -> bool:
    """Whether layers of a model are computed by several processes together (tensor parallelism).

    Its processes must run the same batches at the same moments, so nothing but its training should run it.

    Example:
        >>> splits_layers(nn.Linear(2, 2))
        False
    """
    if any(map(is_parallelized, model.modules())):
        return True
    return not sharded_modules(model) and any(map(is_sharded, model.parameters()))


def runs_by_unit(model: nn.Module) -> bool:
    """Whether each unit of a network under `fully_shard` needs its parameters in its own forward pass alone.

    With ``reshard_after_forward=False``, or with methods registered beside ``forward``, others may use them.

    Example:
        >>> runs_by_unit(nn.Linear(2, 2))
        False
    """
    units = sharded_modules(model)
    within = {id(inner) for unit in units for inner in unit.modules() if inner is not unit}
    used_outside = (has_forward_methods(unit) or (id(unit) in within and keeps_whole(unit)) for unit in units)
    return bool(units) and not splits_layers(model) and not any(used_outside)


def casts(model: nn.Module) -> bool:
    """Whether a network under `fully_shard` computes in another type than its parameters have."""
    return any(map(casts_values, sharded_modules(model)))


def reshard(model: nn.Module) -> None:
    """Have every process hold its own part of the parameters only; after an evaluation the root may hold them whole."""
    for module in sharded_modules(model):
        module.reshard()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Hold all parameters whole on every process during the block, so that a forward pass needs no other process.

    Then processes may run different numbers of batches, none at all, or fail, and no other waits for them. It takes the
    memory of one copy of the parameters.
    """
    modules = sharded_modules(model)
    if not modules:
        yield
        return
    with ExitStack() as stack:
        for module in modules:  # outermost first, so that it becomes the root, as in its first forward pass
            prepare_sharded(module)
        for module in modules:
            for group in shard_groups(module):  # torch has a setter, but no way to ask what was set before
                stack.callback(setattr, group, "post_forward_mesh_info", group.post_forward_mesh_info)
                group.post_forward_mesh_info = None
            module.unshard()
        try:
            yield
        except BaseException:
            _abandon_forward(modules)
            raise
    reshard(model)


def _abandon_forward(modules: list[Any]) -> None:
    """Make FSDP forget a forward pass that was broken off, or the next one fails too; it then is sharded again."""
    for module in modules:
        with suppress(AttributeError, RuntimeError):  # not every torch has it; only the root of a pass may do it
            module.reset_iter_state()
