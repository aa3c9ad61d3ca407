"""One prune event: dense -> pruned -> repaired, or nothing at all. Plain PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from reflow_lightning.calibration import (
    AnyRepair,
    Calibration,
    NoRepair,
    Snapshot,
    calibrate,
    check_drift,
    needs_reference,
    resolve_repair,
    warn_of_drift,
)
from reflow_lightning.calibration.drift import is_trained
from reflow_lightning.pruning import Choice, Masks, choose
from reflow_lightning.pruning.shards import is_sharded
from reflow_lightning.running.batches import Limit, at_most
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import gather, rank, share, together, world_size
from reflow_lightning.running.sharding import reshard, sharded_modules
from reflow_lightning.signal import SignalReport
from reflow_lightning.signal.measure import Profile


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


_DRIFT_BATCHES = 10
STAGES = ("dense", "pruned", "repaired")


@dataclass(frozen=True)
class PruneEvent:
    """What one prune event did.

    Attributes:
        step: Optimizer steps done before.
        sparsity: Share of the selected weights that are pruned since.
        sparsities: The same by parameter name.
        calibration: What the repair did.
        seconds: Time taken, by ``"prune"`` and ``"repair"``.
        signal: The signal of the dense, the pruned and the repaired network, if it was measured.
    """

    step: int
    sparsity: float
    sparsities: Mapping[str, float]
    calibration: Calibration
    seconds: Mapping[str, float]
    signal: Mapping[str, SignalReport] = field(default_factory=dict)

    def settled(self) -> PruneEvent:
        """The same record, which can't be undone and holds nothing of the model."""
        return replace(self, calibration=self.calibration.settled())


def _nothing(_: Masks) -> None:
    pass


@dataclass(frozen=True)
class Plan:
    """How a model is pruned and repaired.

    Attributes:
        how: Arguments of `reflow_lightning.pruning.choose`, but the model, the sparsity, earlier masks and batches.
        repair: See `reflow_lightning.calibrate`.
        batches: Makes fresh calibration batches, as they shall be for this process.
        forward: Runs the model on a batch.
        limit: This process takes at most so many batches, or ``"auto"``.
        profile: Takes at most so many of them to measure the signal; ``None``: it is not measured.
        seed: Seed of whatever reading or augmenting the batches draws.
        step: Optimizer steps done before.
        listeners: Called with the stage and the model.
        averages: Copies of the model in which averages of its weights are kept; they are pruned and repaired too.
        progress: Show a bar if it takes long.
        finish: Called with the masks at the end; if it raises, all is undone.
    """

    how: Mapping[str, Any]
    repair: AnyRepair
    batches: Callable[[], Iterable[Any]]
    forward: Forward
    limit: Limit
    profile: int | None = None
    seed: int = 0
    step: int = 0
    listeners: Sequence[Callable[[str, nn.Module], None]] = ()
    averages: Sequence[nn.Module] = ()
    progress: bool = False
    finish: Callable[[Masks], None] = _nothing

    def choose(self, model: nn.Module, sparsity: float, previous: Masks | None) -> Choice:
        """Which weights go; nothing is changed."""
        with isolated_rng(seed=self.step):  # the same on all ranks, for a criterion that draws
            return choose(
                model,
                sparsity,
                previous=previous,
                batches=Again(self._drawn),
                max_batches=self.limit,
                forward=self.forward,
                progress=self.progress,
                **self.how,
            )

    def _drawn(self) -> Iterator[Any]:
        """Batches whose reading and augmentation differ between ranks."""
        torch.manual_seed(self.seed + self.step + rank())
        return iter(self.batches())

    def reference(self, model: nn.Module) -> nn.Module | None:
        """A copy of the dense model, if the repair compares with it."""
        needed = needs_reference(resolve_repair(self.repair), model) and not sharded_modules(model)  # those it refuses
        return dense_copy(model) if needed else None

    def warn_of_drift(self, model: nn.Module) -> None:
        """Warn if the batches do not look like what the dense model was trained on."""
        if isinstance(resolve_repair(self.repair), NoRepair) or not is_trained(model):
            return
        with self._isolated():
            limit = at_most(self.limit, share(_DRIFT_BATCHES))
            warn_of_drift(check_drift(model, Again(self.batches), self.forward, limit))

    def calibrate(self, model: nn.Module, reference: nn.Module | None = None) -> Calibration:
        """Repair a pruned model; it is unchanged if that raises."""
        with self._isolated():
            return calibrate(
                model,
                Again(self.batches),
                repair=self.repair,
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


def prune_and_repair(
    model: nn.Module, sparsity: float, plan: Plan, previous: Masks | None = None
) -> tuple[PruneEvent, Masks]:
    """Prune a model in place and repair it; if anything fails, on any process, it is as it was on all.

    Args:
        model: The model.
        sparsity: Fraction of the selected weights that are zero then.
        plan: How.
        previous: Masks of an earlier pruning, whose zeros stay.

    Returns:
        What was done, and the masks.
    """
    reshard(model)
    with together("preparing to prune"):
        start = time.perf_counter()
        choice = plan.choose(model, sparsity, previous)
        masks = choice.masks
        _check_agreement(masks)
        seconds = {"prune": time.perf_counter() - start}
        if previous is None:  # it is dense
            plan.warn_of_drift(model)
        profile = plan.begin_profile(model)
        reference = plan.reference(model)

    def reached(stage: str) -> None:
        if profile is not None:
            profile.measure(stage)
        with together(f"a listener to the {stage} network"):
            try:
                for listener in plan.listeners:
                    listener(stage, model)
            finally:
                reshard(model)  # a listener may have run the network

    with ExitStack() as undo:  # what is pushed is called, the last first, unless everything succeeds
        undo.callback(_snapshot(model))
        reached("dense")
        start = time.perf_counter()
        choice.apply(model)
        seconds["prune"] += time.perf_counter() - start
        reached("pruned")
        start = time.perf_counter()
        with together("the repair"):
            calibration = plan.calibrate(model, reference)
            undo.callback(calibration.undo)
        seconds["repair"] = time.perf_counter() - start
        reached("repaired")
        for average in plan.averages:
            undo.callback(_snapshot(average))
            with together("the repair of the averaged weights"):
                dense_average = plan.reference(average)
                masks.apply(average)
                undo.callback(plan.calibrate(average, dense_average).undo)
        with together("the end of the event"):
            plan.finish(masks)
        signal = {} if profile is None else profile.reports
        event = PruneEvent(plan.step, masks.sparsity, masks.sparsities, calibration, seconds, signal)
        undo.pop_all()
    return event, masks


def _check_agreement(masks: Masks) -> None:
    """Check that all processes chose the same weights; those that are spread over them are chosen together anyway."""
    if world_size() == 1 or any(map(is_sharded, masks.values())):
        return
    if len(set(gather(masks.state_dict()["checksum"]))) > 1:
        raise ValueError(
            "the processes chose different weights: give all of them the same arguments and weights, and let a "
            "criterion of your own return the same scores on all"
        )


def _snapshot(model: nn.Module) -> Callable[[], None]:
    """A function that puts back all values and the training flags.

    A repair undoes itself if it raises, but Ctrl-C may come when it has just returned, or undoes itself.
    """
    values = Snapshot([model])
    flags = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        reshard(model)  # as it was when the values were taken
        values.restore()
        for module, flag in flags:
            module.training = flag

    return restore
