"""What is done in a prune event, written down before: everything but the model and the sparsity. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reflow_lightning.calibration import AnyRepair
from reflow_lightning.pruning import Masks
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import rank

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
        profile: Takes at most so many of them to measure the signal; ``None``: it is not measured.
        seed: Seed of whatever reading or augmenting the batches draws.
        step: Optimizer steps done before.
        listeners: Called at every stage.
        averages: Copies of the model in which averages of its weights are kept; they are pruned and repaired too.
        foreign: The batches may be others than the training's, so that a drift is looked for.
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
    listeners: Sequence[Listener] = ()
    averages: Sequence[nn.Module] = ()
    foreign: bool = True
    is_last: bool = True
    progress: bool = False
    finish: Callable[[Masks], None] = _nothing

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
