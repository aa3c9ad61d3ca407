"""A second fit of a completed schedule goes on under its masks, and other arguments than a checkpoint's are told."""

from __future__ import annotations

import functools
import tempfile
import warnings
from typing import Any

import torch

from field_cases.trial import Kind
from field_cases.zeros import Task, data, trainer
from reflow_lightning import Gradual, Iterative, OneShot, Reflow
from reflow_lightning.schedules import Schedule

SCHEDULES: dict[str, Schedule] = {
    "an epoch": OneShot(epoch=3),
    "a step": OneShot(step=30),
    "a fraction": OneShot(fraction=0.8),
    "gradual by steps": Gradual(begin=0.0, end=0.5, every_n_steps=8),
    "gradual by epochs": Gradual(begin=0.25, end=0.75),
    "rounds": Iterative(amount=0.6, every_n_epochs=1),
    "rounds that are judged": Iterative(amount=0.6, every_n_epochs=1, stop_on_drop=10.0, monitor="loss", mode="min"),
}
SECOND: dict[str, dict[str, Any]] = {
    "one epoch": {"max_epochs": 1},
    "two steps": {"max_epochs": -1, "max_steps": 2},
    "no end but by time": {"max_epochs": -1, "max_time": "00:00:00:01"},
}


def reflow(schedule: Schedule, **arguments: Any) -> Reflow:
    return Reflow(**{"sparsity": 0.8, "schedule": schedule, "repair": "none", "monitor": False, **arguments})


def back(module: Task, masks: Any) -> str:
    values = dict(module.named_parameters())
    count = sum(int(values[name][~mask].count_nonzero()) for name, mask in masks.items())
    return f"{count} pruned weights were back" if count else ""


def again(schedule: Schedule, options: dict[str, Any]) -> str:
    torch.manual_seed(0)
    module, callback = Task(), reflow(schedule)
    with tempfile.TemporaryDirectory() as folder:
        trainer(folder, callback, max_epochs=4, enable_checkpointing=False).fit(module, data(), data())
        masks = callback.masks
        trainer(folder, callback, enable_checkpointing=False, **options).fit(module, data(), data())
    if masks is None or callback.masks != masks:
        return "other masks than before"
    return back(module, masks)


def resumed(**arguments: Any) -> str:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        first = trainer(folder, reflow(OneShot(epoch=1)), max_epochs=2)
        first.fit(Task(), data(), data())
        path = first.checkpoint_callback.best_model_path
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            trainer(folder, reflow(**{"schedule": OneShot(epoch=1), **arguments}), max_epochs=3).fit(
                Task(), data(), data(), ckpt_path=path
            )
    texts = [str(w.message) for w in told if "other arguments" in str(w.message)]
    named = len(texts) == 1 and all(f"{name}=" in texts[0] for name in arguments)
    return "" if named or (not arguments and not texts) else f"warnings: {texts}"


ARGUMENTS: dict[str, dict[str, Any]] = {
    "the same arguments": {},
    "another schedule": {"schedule": OneShot(epoch=0)},
    "another sparsity and criterion": {"sparsity": 0.7, "criterion": "random"},
    "another repair": {"repair": "batchnorm"},
}

KINDS = [
    Kind(
        "fits",
        "a second, shorter fit of a completed schedule is refused; other arguments than the checkpoint's pass silently",
        f"schedules: {', '.join(SCHEDULES)}; second fits: {', '.join(SECOND)}; resumed with {', '.join(ARGUMENTS)}",
        {
            f"{first}, then {second}": functools.partial(again, schedule, options)
            for first, schedule in SCHEDULES.items()
            for second, options in SECOND.items()
        }
        | {name: functools.partial(resumed, **arguments) for name, arguments in ARGUMENTS.items()},
    )
]
