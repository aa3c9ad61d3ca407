"""The plan of a prune event within a Lightning training."""

from __future__ import annotations

import functools
from dataclasses import replace

import lightning.pytorch as pl

from reflow_lightning.callbacks import trainer as asking
from reflow_lightning.callbacks.trainer import CalibrationData
from reflow_lightning.events.plan import Plan
from reflow_lightning.events.pruner import PROFILE_BATCHES
from reflow_lightning.running.batches import at_most
from reflow_lightning.running.processes import share


def in_training(plan: Plan, trainer: pl.Trainer, data: CalibrationData) -> Plan:
    """A plan with the batches of a training, within its limits, under its precision, for its averaged weights too.

    Args:
        plan: With the step and the limit that are wanted.
        trainer: The running trainer.
        data: See `Reflow`.
    """
    limit = asking.batch_limit(trainer, data, plan.limit)
    measured = plan.profile is not None and not asking.is_barebones(trainer)
    return replace(
        plan,
        batches=functools.partial(asking.calibration_batches, trainer, data, seed=plan.seed + plan.step),
        forward=asking.forward_in_precision(trainer, plan.forward),
        limit=limit,
        profile=at_most(limit, share(PROFILE_BATCHES)) if measured else None,
        averages=asking.averages(trainer),
        foreign=data not in ("train", getattr(trainer, "datamodule", None)),
        progress=trainer.is_global_zero and trainer.progress_bar_callback is not None,
    )
