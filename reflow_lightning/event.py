"""One prune event: dense -> pruned -> repaired, or nothing at all. Plain PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from reflow_lightning.calibration import Calibration, Repair, calibrate
from reflow_lightning.calibration.batchnorm import Snapshot, batchnorm_layers
from reflow_lightning.pruning import Masks, make_masks
from reflow_lightning.pruning.shards import is_sharded
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import gather, rank, together, world_size
from reflow_lightning.running.sharding import reshard
from reflow_lightning.signal import SignalReport
from reflow_lightning.signal.measure import Profile

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
        how: Arguments of `reflow_lightning.pruning.make_masks`, but the model, the sparsity and earlier masks.
        repair: See `reflow_lightning.calibrate`.
        batches: Makes fresh calibration batches, as they shall be for this process.
        forward: Runs the model on a batch.
        limit: This process takes at most so many batches.
        profile: Takes at most so many of them to measure the signal; ``None``: it is not measured.
        seed: Seed of whatever reading or augmenting the batches draws.
        step: Optimizer steps done before.
        listeners: Called with the stage and the model.
        averages: Copies of the model in which averages of its weights are kept; they are pruned and repaired too.
        progress: Show a bar if it takes long.
        finish: Called with the masks at the end; if it raises, all is undone.
    """

    how: Mapping[str, Any]
    repair: str | Repair
    batches: Callable[[], Iterable[Any]]
    forward: Forward
    limit: int
    profile: int | None = None
    seed: int = 0
    step: int = 0
    listeners: Sequence[Callable[[str, nn.Module], None]] = ()
    averages: Sequence[nn.Module] = ()
    progress: bool = False
    finish: Callable[[Masks], None] = _nothing

    def choose(self, model: nn.Module, sparsity: float, previous: Masks | None) -> Masks:
        """The masks; nothing is changed."""
        with isolated_rng(seed=self.step):  # the same on all ranks, for a criterion that draws
            return make_masks(model, sparsity, previous=previous, **self.how)

    def calibrate(self, model: nn.Module) -> Calibration:
        """Repair a pruned model; it is unchanged if that raises."""
        with self._isolated():
            return calibrate(
                model,
                self.batches(),
                repair=self.repair,
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
        masks = plan.choose(model, sparsity, previous)
        _check_agreement(masks)
        seconds = {"prune": time.perf_counter() - start}
        profile = plan.begin_profile(model)

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
        undo.callback(_snapshot(masks, model))
        reached("dense")
        start = time.perf_counter()
        masks.apply(model)
        seconds["prune"] += time.perf_counter() - start
        reached("pruned")
        start = time.perf_counter()
        with together("the repair"):
            calibration = plan.calibrate(model)
            undo.callback(calibration.undo)
        seconds["repair"] = time.perf_counter() - start
        reached("repaired")
        for average in plan.averages:
            undo.callback(_snapshot(masks, average))
            masks.apply(average)
            with together("the repair of the averaged weights"):
                undo.callback(plan.calibrate(average).undo)
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


def _snapshot(masks: Masks, model: nn.Module) -> Callable[[], None]:
    """A function that puts back the weights that have masks, the BatchNorm statistics, the training flags.

    A repair undoes itself if it raises, but Ctrl-C may come when it has just returned, or undoes itself.
    """
    before = [(values, values.clone()) for values, _ in masks.local(model)]
    statistics = Snapshot(batchnorm_layers(model).values())
    flags = [(module, module.training) for module in model.modules()]

    @torch.no_grad()
    def restore() -> None:
        for values, saved in before:
            values.copy_(saved)
        statistics.restore()
        for module, flag in flags:
            module.training = flag

    return restore
