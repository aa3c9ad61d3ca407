"""One prune event: dense -> pruned -> repaired, or nothing at all. Plain PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from torch import nn

from reflow_lightning.calibration import Calibration
from reflow_lightning.events.plan import Plan
from reflow_lightning.pruning import Masks
from reflow_lightning.pruning.shards import is_sharded
from reflow_lightning.running.processes import gather, together, world_size
from reflow_lightning.running.sharding import reshard
from reflow_lightning.running.snapshot import Snapshot, Snapshots, TrainingFlags
from reflow_lightning.signal import SignalReport


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
                choice.apply(average)
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
    before = Snapshots([TrainingFlags(model.modules()), Snapshot([model])])

    def restore() -> None:
        reshard(model)  # as it was when the values were taken
        before.restore()

    return restore
