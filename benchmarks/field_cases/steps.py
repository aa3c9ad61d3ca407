"""Schedules and curves where Lightning counts no optimizer steps."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch

from field_cases.trial import Kind
from field_cases.zeros import GradientByHand, InBackward, OptimizerBehindLightning, OwnOptimizer, Task, data, trainer
from reflow_lightning import Gradual, OneShot, Reflow, SignalMonitor
from reflow_lightning.schedules import Schedule

TASKS: dict[str, type[Task]] = {
    "the optimizer behind Lightning's": OptimizerBehindLightning,
    "an optimizer of the module's own": OwnOptimizer,
    "an optimizer in backward": InBackward,
    "gradients applied by hand": GradientByHand,
}
SCHEDULES: dict[str, tuple[Schedule, list[int]]] = {  # and the batches after which it prunes
    "a step": (OneShot(step=5), [5]),
    "a fraction": (OneShot(fraction=0.5), [12]),
    "every n steps": (Gradual(begin=0.0, end=0.5, every_n_steps=4), [4, 8, 12]),
}


class Logger(pl.loggers.logger.DummyLogger):
    """Remembers at which steps something was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Any] = []

    def log_metrics(self, metrics: Any = None, step: Any = None) -> None:
        self.steps += [step] if any(name.startswith("variance/") for name in metrics) else []


def run(task: Callable[[], Task], callback: pl.Callback, logger: Any = False) -> int:
    """Train for three epochs of eight batches; how many warnings say that batches are counted."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(folder, callback, enable_checkpointing=False, logger=logger).fit(task(), data())
    return sum("counts no optimizer steps" in str(warning.message) for warning in told)


def scheduled(task: Callable[[], Task], schedule: Schedule, expected: list[int]) -> str:
    callback = Reflow(0.8, schedule=schedule, repair="none", monitor=False)
    told = run(task, callback)
    steps = [event.step for event in callback.events]
    if len(steps) != len(expected) or any(abs(a - b) > 1 for a, b in zip(steps, expected, strict=True)):
        return f"pruned after {steps}"
    return "" if told == 1 else f"{told} warnings"


def monitored(task: Callable[[], Task]) -> str:
    logger = Logger()
    told = run(task, SignalMonitor(6), logger)
    return "" if len(logger.steps) in (4, 5) and told == 1 else f"{told} warnings, logged at {logger.steps}"


KINDS = [
    Kind(
        "steps",
        "nothing happens where manual optimization keeps Lightning's step counter at 0",
        f"{', '.join(TASKS)}, each with {', '.join(SCHEDULES)}, SignalMonitor",
        {
            f"{name}, {when}": functools.partial(scheduled, task, *found)
            for name, task in TASKS.items()
            for when, found in SCHEDULES.items()
        }
        | {f"SignalMonitor, {name}": functools.partial(monitored, task) for name, task in TASKS.items()},
    )
]
