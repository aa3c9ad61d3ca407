"""Prunes and repairs a model whenever it is told to, under the same arguments. Plain PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from reflow_lightning.calibration import AnyRepair, resolve_repair, within
from reflow_lightning.events.binding import BoundMasks
from reflow_lightning.events.event import prune_and_repair
from reflow_lightning.events.plan import Listener, Plan
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.pruning import AnyAllocation, AnyCriterion, Masks, check_model
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.pruning.stepwise import check_steps
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.batches import Limit, at_most, check_limit
from reflow_lightning.running.describing import as_call
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.saying import saying_once
from reflow_lightning.signal.metrics import VARIANCE

PROFILE_BATCHES = 4


class Pruner:
    """What `Reflow` does at a moment, for any training loop or none.

    Args:
        sparsity: Fraction of the selected weights that are zero in the end, in [0, 1).
        criterion: Which weights go; see `reflow_lightning.prune`. A criterion that needs data reads the batches.
        allocation: How weights are shared out over layers.
        pattern: ``"N:M"`` or ``None``.
        min_kept: Least share of all weights that each layer keeps.
        include: Glob patterns on parameter names.
        exclude: Glob patterns on parameter names.
        tied: See `reflow_lightning.prune`.
        steps: So many prunings lead to the sparsity at one moment, each with the repair. In each the same share of what
            is left goes; layers share it as the dense network does. A pattern such as 2:4 is reached by way of 3:4.
        repair: See `reflow_lightning.calibrate`. ``"best"`` also chooses the number of steps, unless it is given.
        budget: How long ``repair="best"`` may take: seconds, or a time such as ``"5min"``; ``None`` for a minute.
        calibration_batches: At most so many batches; ``"auto"``: until their statistics are precise enough.
        monitor: Measure the signal of the dense, the pruned and the repaired network.
        forward: ``(module, batch) -> anything`` for batches that the default does not understand.
        seed: Seed of the random numbers that reading the batches takes.

    Attributes:
        spec: How the weights that go are chosen.
        events: What each prune event of this process did; only the last can be undone.
        listeners: Functions ``(stage, module)``, called while the network is ``"dense"``, ``"pruned"`` and
            ``"repaired"``.
        between: The metrics that are measured in an event after which others follow; see `measure_signal`.
        bound: The masks, and what keeps their zeros in a training.
        said: Warnings that were given and are not repeated; each training begins with none.

    Raises:
        ValueError: For arguments out of range.

    Example:
        >>> Pruner(0.9, repair="batchnorm", exclude="head.*")
        Pruner(0.9, exclude=('head.*',), repair='batchnorm')
    """

    def __init__(
        self,
        sparsity: float,
        *,
        criterion: AnyCriterion = "magnitude",
        allocation: AnyAllocation = "global",
        pattern: str | None = None,
        min_kept: float = 0.0,
        include: Patterns = ("*",),
        exclude: Patterns = (),
        tied: Mapping[str, str] | None = None,
        steps: int = 1,
        repair: AnyRepair = "auto",
        budget: float | str | None = None,
        calibration_batches: Limit = 50,
        monitor: bool = True,
        forward: AnyForward | None = None,
        seed: int = 0,
    ) -> None:
        self.spec = PruneSpec(
            criterion=criterion,
            allocation=allocation,
            pattern=pattern,
            min_kept=min_kept,
            include=include,
            exclude=exclude,
            tied=tied,
        )
        self.spec.check_sparsity(sparsity)
        check_steps(steps)
        resolve_repair(within(repair, budget))
        as_forward(forward)
        check_limit("calibration_batches", calibration_batches)
        if not isinstance(monitor, bool):
            raise ValueError(f"monitor={monitor!r} must be True or False")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed={seed!r} must be a whole number, such as 0")
        self.sparsity = sparsity
        self.steps = steps
        self.repair = repair
        self.budget = budget
        self.calibration_batches = calibration_batches
        self.monitor = monitor
        self.forward = forward
        self.seed = seed
        self.events: list[PruneEvent] = []
        self.listeners: list[Listener] = []
        self.between: Sequence[str] = VARIANCE
        self.bound = BoundMasks()
        self.said: set[str] = set()

    @property
    def masks(self) -> Masks | None:
        """The masks, once there are any."""
        return self.bound.masks

    @masks.setter
    def masks(self, masks: Masks | None) -> None:
        self.bound.masks = masks

    @property
    def reached(self) -> float:
        """The sparsity of the masks, 0 without any."""
        return 0.0 if self.masks is None else self.masks.sparsity

    def apply(self, model: nn.Module, batches: Iterable[Any]) -> PruneEvent:
        """Prune and repair a model here and now.

        Applied again to the same model, it keeps to its zeros; with another model it starts anew.

        Args:
            model: Any module, on its device. Unchanged if an error is raised.
            batches: Calibration batches, to be iterated twice, such as a DataLoader.

        Returns:
            What was done; the masks are in `masks`.

        Example:
            >>> import torch
            >>> pruner = Pruner(0.5)
            >>> event = pruner.apply(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), [torch.randn(8, 4)])
            >>> event.sparsity, event.calibration.repaired
            (0.5, ('1',))
        """
        return self.carry_out(model, self.sparsity, self.plan(functools.partial(iter, batches)))

    def plan(self, batches: Callable[[], Iterable[Any]] = tuple) -> Plan:
        """What is done in an event, on batches that a function makes."""
        return Plan(
            self.spec,
            within(self.repair, self.budget),
            batches,
            as_forward(self.forward),
            self.calibration_batches,
            steps=self.steps,
            profile=at_most(self.calibration_batches, PROFILE_BATCHES) if self.monitor else None,
            between=self.between,
            seed=self.seed,
            listeners=self.listeners,
        )

    @outside_inference()
    def carry_out(self, model: nn.Module, sparsity: float, plan: Plan) -> PruneEvent:
        """Prune and repair a model by a plan, which may say more than the arguments; see `apply`."""
        same = self.bound.may_be_of(model)
        previous = self.masks if same else None
        if not same:
            self.said.clear()
        with saying_once(self.said):
            event, masks = prune_and_repair(model, sparsity, plan, previous)
        self.bound.adopt(model)
        self.masks = masks
        self.settle()
        self.events.append(event)
        return event

    @outside_inference()
    def rehearse(self, model: nn.Module, sparsity: float, plan: Plan) -> PruneEvent:
        """Do all that is done in an event, and put everything back; see `carry_out`.

        Example:
            >>> import torch
            >>> model, pruner = nn.Linear(4, 4), Pruner(0.5)
            >>> event = pruner.rehearse(model, 0.5, pruner.plan(lambda: [torch.randn(8, 4)]))
            >>> event.sparsity, bool((model.weight == 0).any()), pruner.masks
            (0.5, False, None)
        """
        previous = self.masks if self.bound.may_be_of(model) else None
        with saying_once(self.said):
            event, _ = prune_and_repair(model, sparsity, replace(plan, stays=False), previous)
        return event.settled()

    def check(self, model: nn.Module, spec: PruneSpec | None = None) -> None:
        """Check the arguments against a model; nothing is changed.

        Args:
            model: Any module.
            spec: In the place of its own.

        Raises:
            ValueError: If they do not fit it.
        """
        with saying_once(self.said):
            check_model(model, self.sparsity, spec or self.spec)

    def settle(self) -> None:
        """Drop the old values that the last event holds for ``undo``, which a gradual schedule would gather."""
        if self.events:
            self.events[-1] = self.events[-1].settled()

    def settled_events(self) -> list[PruneEvent]:
        """The events as mere records, which can be copied and sent to another process."""
        return [event.settled() for event in self.events]

    def __repr__(self) -> str:
        return as_call(type(self), vars(self.spec) | vars(self))

    def __getstate__(self) -> dict[str, Any]:
        """What may be copied or sent to another process: not what is bound to this one."""
        return self.__dict__ | {"events": self.settled_events()}
