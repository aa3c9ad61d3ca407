"""The last batches that were trained on, to calibrate on where the training's data can't be read a second time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import CombinedLoader

from reflow_lightning.running.batches import MOST_BATCHES, Limit, at_most
from reflow_lightning.running.fresh import live_parts
from reflow_lightning.running.own import own
from reflow_lightning.running.processes import warn
from reflow_lightning.running.world import share


class Recent:
    """Keeps copies of the last batches, as they were before they were trained on, on their device.

    Args:
        most: So many of all processes together; ``"auto"`` stands for 200.

    Example:
        >>> recent = Recent(2)
        >>> for batch in [[1], [2], [3]]:
        ...     recent.take_in(batch)
        >>> list(recent)
        [[2], [3]]
    """

    def __init__(self, most: Limit) -> None:
        self._kept: deque[Any] = deque(maxlen=max(1, share(at_most(most, MOST_BATCHES))))
        self._told: set[str] = set()

    def take_in(self, batch: Any) -> None:
        """A batch is about to be trained on."""
        self._kept.append(own(batch, self._told))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept)


def recent_for(trainer: pl.Trainer, data: Any, most: Limit) -> Recent | None:
    """What keeps the last batches of a training, if they are wanted, or if its loader can't be read beside it.

    Args:
        trainer: The trainer, whose training begins.
        data: The calibration data that are asked for; see `Reflow`.
        most: So many batches.
    """
    if data == "train" and (live := _live_parts(trainer.train_dataloader)):
        warn(
            f"the training's data can't be read a second time without disturbing the training, which shares "
            f"{', '.join(sorted(set(live)))} with it: the last batches trained on are calibrated on, as by "
            "calibration_data='recent'; pass a function that makes other batches if those are not right"
        )
        return Recent(most)
    return Recent(most) if data == "recent" else None


def _live_parts(loaders: Any) -> list[str]:
    flattened = loaders.flattened if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders).flattened
    return [part for loader in flattened for part in live_parts(loader)]
