"""Prunes and repairs a model whenever it is told to, under the same arguments. Plain PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from reflow_lightning.calibration import AnyRepair, resolve_repair
from reflow_lightning.events.binding import BoundMasks
from reflow_lightning.events.event import PruneEvent, prune_and_repair
from reflow_lightning.events.plan import Plan
from reflow_lightning.pruning import Masks, PruneSpec, check_model
from reflow_lightning.running.batches import Limit, at_most, check_limit
from reflow_lightning.running.forward import Forward, default_forward

PROFILE_BATCHES = 4


class Pruner:
    """What `Reflow` does at a moment, without a training.

    Args:
        sparsity: Fraction of the selected weights that are zero in the end, in [0, 1).
        how: How they are chosen: arguments of `reflow_lightning.prune`.
        repair: See `reflow_lightning.calibrate`.
        calibration_batches: At most so many batches.
        forward: ``(module, batch) -> anything`` for batches that the default does not understand.
        seed: Seed of whatever reading the batches draws.
        measures: Measure the signal.

    Attributes:
        events: What each prune event of this process did.
        listeners: Functions ``(stage, module)``, called at every event.

    Raises:
        ValueError: For arguments out of range.
    """

    def __init__(
        self,
        sparsity: float,
        how: Mapping[str, Any],
        repair: AnyRepair,
        calibration_batches: Limit,
        forward: Forward | None,
        seed: int,
        measures: bool,
    ) -> None:
        self._spec = PruneSpec.from_dict(how)
        self._spec.check_sparsity(sparsity)
        resolve_repair(repair)
        check_limit("calibration_batches", calibration_batches)
        self.sparsity = sparsity
        self.repair = repair
        self.calibration_batches = calibration_batches
        self.forward = forward
        self.seed = seed
        self.events: list[PruneEvent] = []
        self.listeners: list[Callable[[str, nn.Module], None]] = []
        self._how = how
        self._measures = measures
        self._bound = BoundMasks()

    @property
    def masks(self) -> Masks | None:
        """The masks, once there are any."""
        return self._bound.masks

    @masks.setter
    def masks(self, masks: Masks | None) -> None:
        self._bound.masks = masks

    def apply(self, model: nn.Module, batches: Iterable[Any]) -> PruneEvent:
        """Prune and repair a model here and now, without a training; the schedule is not asked.

        Applied again to the same model, it keeps to its zeros.

        Args:
            model: Any module, on its device. Unchanged if an error is raised.
            batches: Calibration batches, to be iterated twice, such as a DataLoader.

        Returns:
            What was done; the masks are in `masks`.

        Example:
            >>> import torch
            >>> from reflow_lightning import Reflow
            >>> reflow = Reflow(0.5)
            >>> event = reflow.apply(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), [torch.randn(8, 4)])
            >>> event.sparsity, event.calibration.repaired
            (0.5, ('1',))
        """
        check_model(model, self.sparsity, self._spec)
        self._adopt(model)
        return self._do(model, self.sparsity, replace(self._plan(), batches=functools.partial(iter, batches)))

    def _plan(self) -> Plan:
        """How a model is pruned, but for the batches."""
        return Plan(
            self._spec,
            self.repair,
            tuple,
            self.forward or default_forward,
            self.calibration_batches,
            profile=at_most(self.calibration_batches, PROFILE_BATCHES) if self._measures else None,
            seed=self.seed,
            listeners=self.listeners,
        )

    def _adopt(self, model: nn.Module) -> None:
        """Forget the masks of another model."""
        self._bound.adopt(model)

    def _do(self, model: nn.Module, sparsity: float, plan: Plan) -> PruneEvent:
        event, self.masks = prune_and_repair(model, sparsity, plan, self.masks)
        self._settle()
        self.events.append(event)
        return event

    def _settle(self) -> None:
        """Only the latest event can be undone, or a gradual schedule would gather old statistics without end."""
        if self.events:
            self.events[-1] = self.events[-1].settled()

    def __getstate__(self) -> dict[str, Any]:
        """What may be copied or sent to another process: not what is bound to this one."""
        return self.__dict__ | {"events": [event.settled() for event in self.events]}
