"""The states that a network passes through, kept so that each can be tested."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import lightning.pytorch as pl
from torch import Tensor


@dataclass
class Stages:
    """Copies of the network's state: dense before the first prune event, pruned and repaired at the last, and final.

    Attributes:
        states: State dictionaries on the CPU by stage, in the order dense, pruned, repaired, final.
        steps: Optimizer steps done by then.
        times: When that was, by ``time.perf_counter()``.
    """

    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)

    def record(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the network as it is now; a listener of `Reflow`."""
        if stage == "dense" and stage in self.states:
            return  # a later event of a gradual schedule: the network is no longer dense
        self.states[stage] = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}
        self.steps[stage] = trainer.global_step
        self.times[stage] = time.perf_counter()

    def finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the final state, if training went on after the last repair."""
        if self.steps["repaired"] != trainer.global_step:
            self.record("final", trainer, pl_module)
