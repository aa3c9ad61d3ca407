"""How many optimizer steps a training has done, also where Lightning counts none."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch.nn.parameter import is_lazy

from reflow_lightning.pruning.probing import Probe
from reflow_lightning.running.processes import warn
from reflow_lightning.running.sharding import reshard


class Steps:
    """Counts the optimizer steps of a training as Lightning does, or its batches where Lightning does not.

    In manual optimization Lightning counts the steps of the optimizers that it wraps, and no others. Where a batch has
    moved weights and no step was counted, each batch counts as a step from then on, and a warning says so.
    """

    def __init__(self) -> None:
        self._counts_batches = False
        self._probe: Probe | None = None
        self._before: list[torch.Tensor] = []

    def done(self, trainer: pl.Trainer) -> int:
        """The steps done so far."""
        return trainer.global_step or (_batches(trainer) if self._counts_batches else 0)

    def batch_starts(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A batch is about to be trained on."""
        if module.automatic_optimization or trainer.global_step or self._counts_batches:
            self._probe = None
            return
        reshard(module)  # or a part would be looked for in what is whole now
        self._probe = Probe.of_all([p.detach() for p in module.parameters() if p.requires_grad and not is_lazy(p)])
        self._before = self._probe.values()

    def batch_ends(self, trainer: pl.Trainer) -> None:
        """A batch has been trained on."""
        probe, self._probe = self._probe, None
        if probe is None or trainer.global_step:
            return
        if any(not torch.equal(a, b) for a, b in zip(self._before, probe.values(), strict=True)):
            self._counts_batches = True
            warn(
                "Lightning counts no optimizer steps here, since manual optimization goes past self.optimizers(): each "
                "batch counts as one step for schedules and curves"
            )


def _batches(trainer: pl.Trainer) -> int:
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    processed: int = total.processed
    return processed
