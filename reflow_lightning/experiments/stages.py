"""The states that a network passes through, kept so that each can be tested."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch import nn

from reflow_lightning.experiments.clock import Clock
from reflow_lightning.experiments.spreading import State, copy_state
from reflow_lightning.running.processes import warn


class Stages(pl.Callback):
    """Copies of the network's state: dense before the first prune event, pruned and repaired at the last, and final.

    As a callback of a training it keeps them in the checkpoints, too.

    Args:
        clock: Counts the seconds of the run.

    Attributes:
        states: State dictionaries by stage, in the order dense, pruned, repaired, final.
        steps: Optimizer steps done by then.
        times: When that was, in seconds since the run began.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.states: dict[str, State] = {}
        self.steps: dict[str, int] = {}
        self.times: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """All of it, in plain types and tensors."""
        return {"states": self.states, "steps": self.steps, "times": self.times}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what a checkpoint holds."""
        self.states, self.steps, self.times = (dict(state_dict[name]) for name in ("states", "steps", "times"))

    def record(self, stage: str, module: nn.Module) -> None:
        """Copy the network as it is now; a listener of `Reflow`."""
        if stage == "dense" and stage in self.states:
            return  # a later event of a gradual schedule: the network is no longer dense
        self.keep(stage, copy_state(module), getattr(module, "global_step", 0))

    def keep(self, stage: str, state: State, step: int) -> None:
        """Keep the state of a stage."""
        self.states[stage], self.steps[stage], self.times[stage] = state, step, self.clock.seconds()


class BestWeights(pl.Callback):
    """Keeps the weights of the epoch whose validation was best: the choice among epochs that never sees the test set.

    Args:
        metric: What is validated, such as ``"val/accuracy"``.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is.
        ready: Whether an epoch may be chosen; ``None``: always.

    Attributes:
        state: The best state. ``None`` before the first.
        step: Optimizer steps done by then.
        value: Its metric.
    """

    def __init__(self, metric: str, mode: str = "max", ready: Callable[[], bool] | None = None) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r} must be 'max' or 'min'")
        self.metric = metric
        self.sign = 1 if mode == "max" else -1
        self.ready = ready
        self.state: State | None = None
        self.step, self.value, self._best = 0, float("nan"), float("-inf")

    def state_dict(self) -> dict[str, Any]:
        """The best so far, in plain types and tensors."""
        return {"state": self.state, "step": self.step, "value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best that a checkpoint holds."""
        self.state, self.step, self.value = state_dict["state"], int(state_dict["step"]), float(state_dict["value"])
        self._best = float("-inf") if math.isnan(self.value) else self.sign * self.value

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare with the best so far; of equal ones the later stays, which trained longer."""
        if trainer.sanity_checking or (self.ready and not self.ready()):
            return
        if self.metric not in trainer.callback_metrics:
            warn(f"{self.metric} was not logged in the validation: the last epoch counts as the best")
        value = self.sign * float(trainer.callback_metrics.get(self.metric, float("nan")))
        value = float("-inf") if math.isnan(value) else value  # no number compares with NaN
        if self.state is None or value >= self._best:
            self.state, self.step, self._best = copy_state(pl_module), trainer.global_step, value
            self.value = self.sign * value
