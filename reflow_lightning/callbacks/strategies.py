"""Which of Lightning's strategies leave the weights where they can be pruned."""

from __future__ import annotations

import lightning.pytorch as pl

from reflow_lightning.running.compat.lightning import is_one


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
