"""How a model is pruned and repaired: everything but the moment. Plain PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from reflow_lightning.calibration import (
    AnyRepair,
    Calibration,
    NoRepair,
    Repair,
    calibrate,
    check_drift,
    needs_reference,
    resolve_repair,
    warn_of_drift,
)
from reflow_lightning.calibration.auto import between_prunings
from reflow_lightning.calibration.drift.check import is_trained
from reflow_lightning.pruning import Choice, Masks, PruneSpec, choose
from reflow_lightning.running.batches import Limit, at_most
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import rank, share
from reflow_lightning.running.sharding import sharded_modules
from reflow_lightning.signal.measure import Profile

_DRIFT_BATCHES = 10


class Again:
    """Batches that are made anew each time they are read, since a repair may read them several times.

    Args:
        make: Makes them.

    Example:
        >>> batches = Again(lambda: iter([1, 2]))
        >>> list(batches), list(batches)
        ([1, 2], [1, 2])
    """

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())


def _nothing(_: Masks) -> None:
    pass


@dataclass(frozen=True)
class Plan:
    """How a model is pruned and repaired.

    Attributes:
        spec: How the weights are chosen.
        repair: See `reflow_lightning.calibrate`.
        batches: Makes fresh calibration batches, as they shall be for this process.
        forward: Runs the model on a batch.
        limit: This process takes at most so many batches, or ``"auto"``.
        profile: Takes at most so many of them to measure the signal; ``None``: it is not measured.
        seed: Seed of whatever reading or augmenting the batches draws.
        step: Optimizer steps done before.
        listeners: Called with the stage and the model.
        averages: Copies of the model in which averages of its weights are kept; they are pruned and repaired too.
        foreign: The batches may be others than those of the training, so that a drift is looked for.
        is_last: No pruning of this model is to come.
        progress: Show a bar if it takes long.
        finish: Called with the masks at the end; if it raises, all is undone.
    """

    spec: PruneSpec
    repair: AnyRepair
    batches: Callable[[], Iterable[Any]]
    forward: Forward
    limit: Limit
    profile: int | None = None
    seed: int = 0
    step: int = 0
    listeners: Sequence[Callable[[str, nn.Module], None]] = ()
    averages: Sequence[nn.Module] = ()
    foreign: bool = True
    is_last: bool = True
    progress: bool = False
    finish: Callable[[Masks], None] = _nothing

    def choose(self, model: nn.Module, sparsity: float, previous: Masks | None) -> Choice:
        """Which weights go; nothing is changed."""
        with isolated_rng(seed=self.step):  # the same on all ranks, for a criterion that draws
            return choose(
                model,
                sparsity,
                self.spec,
                previous=previous,
                batches=Again(self._drawn),
                max_batches=self.limit,
                forward=self.forward,
                progress=self.progress,
            )

    def _drawn(self) -> Iterator[Any]:
        """Batches whose reading and augmentation differ between ranks."""
        torch.manual_seed(self.seed + self.step + rank())
        return iter(self.batches())

    def repair_of(self, model: nn.Module) -> Repair:
        """The repair, as this event does it."""
        repair = resolve_repair(self.repair)
        return repair if self.is_last else between_prunings(repair, model)

    def reference(self, model: nn.Module) -> nn.Module | None:
        """A copy of the dense model, if the repair compares with it."""
        needed = needs_reference(self.repair_of(model), model) and not sharded_modules(model)  # those it refuses
        return dense_copy(model) if needed else None

    def warn_of_drift(self, model: nn.Module) -> None:
        """Warn if the batches do not look like what the dense model was trained on."""
        if not self.foreign or isinstance(self.repair_of(model), NoRepair) or not is_trained(model):
            return
        with self._isolated():
            limit = at_most(self.limit, share(_DRIFT_BATCHES))
            warn_of_drift(check_drift(model, Again(self.batches), self.forward, limit))

    def calibrate(self, model: nn.Module, reference: nn.Module | None = None) -> Calibration:
        """Repair a pruned model; it is unchanged if that raises."""
        with self._isolated(), warnings.catch_warnings():
            # the copy is our own: where no weight was pruned this time, both are equal
            warnings.filterwarnings("ignore", message="reference has all the weights of the model")
            return calibrate(
                model,
                Again(self.batches),
                repair=self.repair_of(model),
                reference=reference,
                max_batches=self.limit,
                forward=self.forward,
                progress=self.progress,
            )

    def begin_profile(self, model: nn.Module) -> Profile | None:
        """Read the batches on which the signal is measured."""
        if self.profile is None:
            return None
        with self._isolated():
            return Profile(model, islice(self.batches(), self.profile), self.forward)

    def _isolated(self) -> AbstractContextManager[None]:
        # Seeded, so that neither a resumed run nor one with other logging draws or augments the batches otherwise.
        return isolated_rng(seed=self.seed + self.step + rank())
