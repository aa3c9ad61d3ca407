"""A copy of a network that is spread over processes, whole on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from reflow_lightning.running.compat.sharding import without_sharding
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.inference import writing
from reflow_lightning.running.lent import is_lent
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import is_sharded, is_spread, reshard
from reflow_lightning.running.shards import local, part_of, whole_like, whole_of
from reflow_lightning.running.snapshot import named_tensors


@torch.no_grad()
def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy that runs by itself, as `dense_copy` makes; whole on each process if the model is spread over them.

    It takes the memory of one set of weights on each. Where the model is spread over processes, all must call this.
    """
    if not is_spread(model):
        return dense_copy(model)
    copied = hollow_copy(model)
    for name, parameter in model.named_parameters():  # one after the other, so that no more than the copy is held
        if is_sharded(parameter):
            part = part_of(name, parameter)
            copied.get_parameter(name).data = part.values.clone() if part.group is None else whole_of(part)
    return copied


def hollow_copy(model: nn.Module) -> nn.Module:
    """A deep copy that runs by itself, with nothing in the parameters that are spread over processes.

    All processes must call this.
    """
    reshard(model)
    with together("copying the network"), _hollow(model):
        return dense_copy(model)


@torch.no_grad()
def write_back(model: nn.Module, copied: nn.Module) -> None:
    """Write the parameters and buffers of a copy into the network; each process writes the part that it holds."""
    reshard(model)
    with writing(model):
        values = dict(named_tensors(copied))
        for name, tensor in named_tensors(model):
            if name in values and not is_lent(values[name]):  # what a copy by units lends is written already
                local(tensor.detach()).copy_(local(whole_like(tensor, values[name].detach())))


@contextmanager
def _hollow(model: nn.Module) -> Iterator[None]:
    """A block in which the network is an ordinary one, with empty parameters where they are spread over processes."""
    hollow = {
        id(p): nn.Parameter(torch.empty(0, dtype=p.dtype, device=local(p.detach()).device), p.requires_grad)
        for p in model.parameters()
        if is_sharded(p)
    }
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "__dict__", vars(module))
            stack.callback(setattr, module, "__class__", type(module))
            module.__dict__ = without_sharding(module, hollow)
            module.__class__ = _ordinary_class(module)
        yield


def _ordinary_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, or the one from which `fully_shard` derived its class."""
    from torch.distributed.fsdp import FSDPModule

    kinds = [kind for kind in type(module).__mro__ if issubclass(kind, nn.Module)]
    return next(kind for kind in kinds if not issubclass(kind, FSDPModule))
