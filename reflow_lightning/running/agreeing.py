"""Networks that the processes hold as copies of each other, alike to the last bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reflow_lightning.running.compat.torch import BatchNorm
from reflow_lightning.running.lent import is_lent
from reflow_lightning.running.processes import device_of_group, gather, in_step
from reflow_lightning.running.sharding import is_sharded
from reflow_lightning.running.world import world_size


@torch.no_grad()
def take_from_first(modules: Mapping[str, nn.Module]) -> None:
    """Give modules the parameters, and BatchNorm layers the statistics, of the process of rank zero.

    Devices of different kinds round differently, so that processes which compute the same need not get the same bits.
    Nothing else would bring them together again: DDP sends gradients, and no weights. Other buffers are left alone, as
    are tensors that are spread over processes, and modules that another process lacks, or has in other shapes or types.
    Where processes run together, all must call this.

    Args:
        modules: Those that were changed, by name.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> take_from_first({"fc": layer})  # a single process has nothing to take
    """
    if world_size() == 1:
        return
    values = {name: _taken(module) for name, module in modules.items()}
    here = {name: [(str(value.dtype), *value.shape) for value in found] for name, found in values.items()}
    everywhere = gather(here)
    for name in sorted(here):
        if here[name] and all(found.get(name) == here[name] for found in everywhere):
            _take(values[name])


def from_first(values: Tensor) -> Tensor:
    """The values of the process of rank zero, in a tensor like this one; all processes must call this.

    Example:
        >>> from_first(torch.ones(2, dtype=torch.bool))
        tensor([True, True])
    """
    if world_size() == 1:
        return values
    taken = values.clone()
    _take([taken])
    return taken


def _taken(module: nn.Module) -> list[Tensor]:
    norms = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    found = [*module.parameters(), *(buffer for norm in norms for buffer in norm.buffers(recurse=False))]
    return [value.detach() for value in found if _is_held_whole(value)]


def _is_held_whole(value: Tensor) -> bool:
    return not (is_lazy(value) or value.is_meta or is_sharded(value) or is_lent(value))


def _take(values: list[Tensor]) -> None:
    """Send tensors as bytes, at once: each exchange takes about a millisecond, however little it moves."""
    parts = [value.contiguous().flatten().view(torch.uint8) for value in values]
    sent = torch.cat(parts).to(device_of_group(None))
    with in_step():
        dist.broadcast(sent, 0)
    for value, part in zip(values, torch.split(sent, [len(part) for part in parts]), strict=True):
        value.copy_(part.to(value.device).clone().view(value.dtype).view(value.shape))
