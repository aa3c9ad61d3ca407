"""The plan of a prune event within a Lightning training."""

from __future__ import annotations

import functools
from dataclasses import replace

import lightning.pytorch as pl

from reflow_lightning.callbacks.averages import averages_in
from reflow_lightning.callbacks.data import batch_limit, calibration_batches
from reflow_lightning.callbacks.once import OncePerFit
from reflow_lightning.callbacks.recent import Recent
from reflow_lightning.callbacks.scope import Scope
from reflow_lightning.callbacks.trainer import forward_in_precision, is_barebones
from reflow_lightning.events.plan import Plan
from reflow_lightning.events.pruner import PROFILE_BATCHES, Pruner
from reflow_lightning.running.as_forward import as_forward
from reflow_lightning.running.batches import at_most
from reflow_lightning.running.world import share


def plan_event(
    pruner: Pruner, scope: Scope, once: OncePerFit, trainer: pl.Trainer, module: pl.LightningModule, step: int
) -> Plan:
    """The plan of an event in a training: its batches, within its limits, under its precision, for its averages too.

    Args:
        pruner: Whose arguments are followed.
        scope: Says what of the module is pruned.
        once: Has the calibration data and the forward pass of this fit.
        trainer: The running trainer.
        module: The module.
        step: Optimizer steps done.
    """
    once.set_up_data(trainer, module)
    plan, data = pruner.plan(), once.source
    limit = batch_limit(trainer, data, plan.limit)
    measured = plan.profile is not None and not is_barebones(trainer)
    return replace(
        plan,
        spec=scope.of(trainer, module, pruner.spec, pruner.masks),
        step=step,
        batches=functools.partial(calibration_batches, trainer, data, seed=plan.seed + step),
        forward=forward_in_precision(trainer, as_forward(once.forward)),
        limit=limit,
        profile=at_most(limit, share(PROFILE_BATCHES)) if measured else None,
        averages=averages_in(trainer),
        untouched=scope.untouched,
        foreign=not isinstance(data, Recent) and data not in ("train", getattr(trainer, "datamodule", None)),
        progress=trainer.is_global_zero and trainer.progress_bar_callback is not None,
    )
