"""Which of Lightning's strategies leave the weights where they can be pruned, and which processes they run on."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import nn
from torch.nn.parameter import is_lazy

from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.running.processes import gather
from reflow_lightning.running.sharding import is_spread
from reflow_lightning.running.world import go_alone


def check_strategy(trainer: pl.Trainer) -> None:
    """Check that the weights are where they can be pruned.

    Raises:
        ValueError: If the strategy shards them in a way that is not understood.
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    instead = "use strategy=FullyShard() of reflow_lightning.callbacks, with the lines of docs/how_to/several_gpus.md"
    if is_one(strategy, "FSDPStrategy"):
        raise ValueError(f"strategy={name} flattens the weights of several layers into one tensor: {instead}")
    if "DeepSpeed" in name:
        raise ValueError(f"strategy={name} keeps the weights to itself: use DDP, or where they take more, {instead}")


def check_same_parameters(module: nn.Module) -> None:
    """Check that all processes hold the same parameters, or parts of them. All must call it.

    Raises:
        ValueError: If one has a parameter that another has not, or of another shape, on every process.
    """
    parameters = dict(module.named_parameters())
    held = gather({name: None if is_lazy(p) else tuple(p.shape) for name, p in parameters.items()})
    for rank, other in enumerate(held):
        odd = [name for name in held[0].keys() | other.keys() if held[0].get(name) != other.get(name)]
        if odd:
            name = min(odd)
            raise ValueError(
                f"parameter '{name}' is {held[0].get(name, 'missing')} on rank 0 and {other.get(name, 'missing')} on "
                f"rank {rank}: build the same network on all processes, and spread it by fully_shard, not by hand"
            )


def enter_world(who: object, trainer: pl.Trainer, module: nn.Module) -> None:
    """Let a Trainer of one device wait for no other process, though a process group is there, until `rejoin`.

    Args:
        who: On whose behalf; see `go_alone`.
        trainer: The trainer, when its fit starts.
        module: Its module. Where that is spread over processes or replicated by hand, they do belong together.
    """
    replicated = any(isinstance(inner, nn.parallel.DistributedDataParallel) for inner in module.modules())
    if trainer.world_size == 1 and not is_spread(module) and not replicated:
        go_alone(who)
