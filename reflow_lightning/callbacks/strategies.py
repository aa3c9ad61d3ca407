"""Which of Lightning's strategies leave the weights where they can be pruned, and which processes they run on."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import nn

from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.running.sharding import is_spread
from reflow_lightning.running.world import go_alone


def check_strategy(trainer: pl.Trainer) -> None:
    """Check that the weights are where they can be pruned.

    Raises:
        ValueError: If the strategy shards them in a way that is not understood.
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    instead = "use strategy=FullyShard() of reflow_lightning.callbacks, with the lines of docs/several_gpus.md"
    if is_one(strategy, "FSDPStrategy"):
        raise ValueError(f"strategy={name} flattens the weights of several layers into one tensor: {instead}")
    if "DeepSpeed" in name:
        raise ValueError(f"strategy={name} keeps the weights to itself: use DDP, or where they take more, {instead}")


def enter_world(who: object, trainer: pl.Trainer, module: nn.Module) -> None:
    """Let a Trainer of one device wait for no other process, though a process group is there, until `rejoin`.

    Args:
        who: On whose behalf; see `go_alone`.
        trainer: The trainer, when its fit starts.
        module: Its module. Where that is spread over processes, they do belong together.
    """
    if trainer.world_size == 1 and not is_spread(module):
        go_alone(who)
