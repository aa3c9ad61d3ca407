"""Where a training is in its data, so that a resumed one gets the batches that it would have got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from reflow_lightning.running.compat.lightning import restart_batches
from reflow_lightning.running.generators import RandomState, generator_types
from reflow_lightning.running.processes import gather
from reflow_lightning.running.world import rank

_LOOKED_AT, _DEEP, _LONGEST = 10_000, 5, 100


class Position:
    """The random states of a training, now and where its epoch began, and how many batches it has had of the epoch.

    Lightning goes on with the next epoch's first batches when it resumes within an epoch, since it does not know the
    order that was drawn. Here the state of before is put back, the order drawn again, the batches of before are taken
    and dropped, and the state of the checkpoint is put back. So the training gets the batches, augmentation and dropout
    that it would have got, with any number of loading processes, if these end with each epoch.
    """

    def __init__(self) -> None:
        self._generators: list[Any] = []  # of the data
        self._start = RandomState()
        self._batches = 0
        self._resumed: Mapping[str, Any] | None = None
        self._has_order = False

    def state_dict(self) -> dict[str, Any]:
        """Of all processes, in plain types and tensors; all of them must call it."""
        own = {"start": self._start.to_dict(), "now": self._now().to_dict(), "batches": self._batches}
        return {"ranks": gather(own)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there when the training starts."""
        ranks = state_dict["ranks"]
        self._resumed = ranks[rank() % len(ranks)]

    def fit_starts(self, trainer: pl.Trainer) -> None:
        """Note the state in which Lightning will draw the order of the first epoch."""
        self._generators = generators_in_data(getattr(trainer, "datamodule", None))
        self._start, self._has_order = self._now(), True

    def training_starts(self, trainer: pl.Trainer) -> None:
        """Take the place of the checkpoint."""
        if self._resumed is None:
            return
        state, self._resumed = self._resumed, None
        now, self._batches = RandomState.from_dict(state["now"], self._generators), int(state["batches"])
        self._start = RandomState.from_dict(state["start"], self._generators) if self._batches else now
        self._start.restore()
        restart_batches(trainer, self._batches)
        if self._batches:
            now.restore()

    def fit_ends(self) -> None:
        """Leave the random state that the training left, if the checkpoint was of its end and nothing was trained."""
        if self._resumed is not None:
            RandomState.from_dict(self._resumed["now"], self._generators).restore()
            self._resumed = None

    def epoch_starts(self) -> None:
        """Note the state in which Lightning will draw the order of the epoch, unless it has done so already."""
        if not self._has_order:
            self._start = self._now()

    def batch_starts(self) -> None:
        """The order of this epoch has been drawn."""
        self._has_order = False

    def batch_ends(self) -> None:
        """One more batch of this epoch is behind."""
        self._batches += 1

    def epoch_ends(self) -> None:
        """The next epoch begins with its first batch."""
        self._batches = 0

    def _now(self) -> RandomState:
        return RandomState(self._generators)


def generators_in_data(data: Any) -> list[Any]:
    """The generators of random numbers that a data module holds itself, or in its data sets, transforms and samplers.

    Example:
        >>> import torch
        >>> class Data(pl.LightningDataModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.draws = {"order": torch.Generator()}
        >>> len(generators_in_data(Data()))
        1
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [(data, 0)]
    while waiting and len(seen) < _LOOKED_AT:
        value, depth = waiting.pop(0)
        if id(value) in seen or isinstance(value, (type, pl.Trainer)):
            continue
        seen.add(id(value))
        if isinstance(value, generator_types()):
            found.append(value)
        elif depth < _DEEP and isinstance(value, (list, tuple, dict)):
            values = value.values() if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in values] if len(value) <= _LONGEST else []
        elif depth < _DEEP and hasattr(value, "__dict__"):
            waiting += [(item, depth + 1) for item in vars(value).values()]
    return found
