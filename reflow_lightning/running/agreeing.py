"""Networks that the processes hold as copies of each other, alike to the last bit."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reflow_lightning.running.lent import is_lent
from reflow_lightning.running.processes import device_of_group, in_step
from reflow_lightning.running.sharding import is_sharded
from reflow_lightning.running.world import world_size


@torch.no_grad()
def take_from_first(modules: Iterable[nn.Module]) -> None:
    """Give modules the parameters and buffers that they have on the process of rank zero.

    Devices of different kinds round differently, so that processes which compute the same need not get the same bits.
    Nothing else would bring them together again: DDP sends gradients, and no weights. Tensors that are spread over
    processes are left as they are. Where processes run together, all must call it, with the same modules.

    Args:
        modules: Those that were changed, each a few tensors of one network.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> take_from_first([layer])  # a single process has nothing to take
    """
    if world_size() == 1:
        return
    for module in modules:
        held = [*module.parameters(), *module.buffers()]
        sent = sorted((value for value in held if _is_held_whole(value)), key=lambda value: str(value.dtype))
        for _, values in groupby(sent, key=lambda value: value.dtype):
            _send([value.detach() for value in values])


def _is_held_whole(value: Tensor) -> bool:
    return not (is_lazy(value) or value.is_meta or is_sharded(value) or is_lent(value))


def _send(values: list[Tensor]) -> None:
    """Send tensors of one type at once; each exchange takes about a millisecond, however little it moves."""
    buffer = torch.cat([value.flatten() for value in values]).to(device_of_group(None))
    with in_step():
        dist.broadcast(buffer, 0)
    for value, part in zip(values, torch.split(buffer, [value.numel() for value in values]), strict=True):
        value.copy_(part.view(value.shape))
