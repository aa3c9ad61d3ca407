"""What is done in a prune event, written down before: everything but the model and the sparsity. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from reflow_lightning.calibration import AnyRepair
from reflow_lightning.pruning import Masks
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.running.batches import MOST_BATCHES, Limit, at_most
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.world import rank
from reflow_lightning.signal.metrics import HISTOGRAM, METRICS, VARIANCE

Listener = Callable[[str, nn.Module], None]
"""Is called with the stage, ``"dense"``, ``"pruned"`` or ``"repaired"``, and the model."""


def _nothing(_: Masks) -> None:
    pass


@dataclass(frozen=True)
class Plan:
    """How a model is pruned and repaired.

    Attributes:
        spec: How the weights that go are chosen.
        repair: See `reflow_lightning.calibrate`.
        batches: Makes fresh calibration batches, as they shall be for this process.
        forward: Runs the model on a batch.
        limit: This process takes at most so many batches, or ``"auto"``.
        steps: So many prunings lead to the sparsity, each with the repair.
        profile: Takes at most so many of them to measure the signal; ``None``: it is not measured.
        between: What is measured in an event that is not the last: see `measure_signal`.
        seed: Seed of the random numbers that reading or augmenting the batches takes.
        step: Optimizer steps done before.
        listeners: Called at every stage.
        averages: Copies of the model in which averages of its weights are kept; they are pruned and repaired too.
        foreign: The batches may be others than the training's, so that a drift is looked for.
        untouched: Modules that repairs leave as they are, by name.
        is_last: No pruning of this model is to come.
        progress: Show a bar if it takes long.
        finish: Called with the masks at the end; if it raises, all is undone.
        stays: The model stays pruned; otherwise the event is a trial, after which everything is put back.
    """

    spec: PruneSpec
    repair: AnyRepair
    batches: Callable[[], Iterable[Any]]
    forward: Forward
    limit: Limit
    steps: int = 1
    profile: int | None = None
    between: Sequence[str] = VARIANCE
    seed: int = 0
    step: int = 0
    listeners: Sequence[Listener] = ()
    averages: Sequence[nn.Module] = ()
    foreign: bool = True
    untouched: Collection[str] = ()
    is_last: bool = True
    progress: bool = False
    finish: Callable[[Masks], None] = _nothing
    stays: bool = True

    @property
    def metrics(self) -> Sequence[str]:
        """What is measured: all at the end, and before that what is wanted of an event that others follow."""
        return (*(METRICS if self.is_last else self.between), HISTOGRAM)

    def profiled(self) -> Iterator[Any]:
        """The batches to measure on; before the end few enough for three passes over them to cost little."""
        assert self.profile is not None
        repaired = at_most(self.limit, MOST_BATCHES)
        return islice(self.batches(), self.profile if self.is_last else max(1, min(self.profile, repaired // 6)))

    def isolated(self) -> AbstractContextManager[None]:
        """A block that draws the same in a resumed run, or one with other logging, and leaves no trace of it."""
        return isolated_rng(seed=self.seed + self.step + rank())

    def drawn(self) -> Iterator[Any]:
        """Batches whose reading and augmentation differ between ranks, for a block that draws the same on all."""
        torch.manual_seed(self.seed + self.step + rank())
        return iter(self.batches())


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
