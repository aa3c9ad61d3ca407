"""Sparsities that were tried, and the network of the sparsest that was good enough."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, MutableMapping
from statistics import fmean
from typing import Any

from torch import nn

from reflow_lightning.pruning import Masks
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.processes import gather, together
from reflow_lightning.running.saying import saying_once
from reflow_lightning.running.sharding import reshard
from reflow_lightning.running.snapshot import Snapshot
from reflow_lightning.running.world import rank
from reflow_lightning.search.checks import as_number, comparable
from reflow_lightning.search.trials import Trial, is_within

_log = logging.getLogger(__name__)


class Tried:
    """Tries sparsities, and keeps the network of the sparsest that was within the drop.

    Args:
        model: The model, dense as yet; it is scored at once.
        prune_to: Prunes the model to a sparsity in place, and repairs it.
        evaluate: Gives the model, which is in eval mode, a score.
        max_drop: By how much the score may be below the dense model's.
        seed: Seed of what ``evaluate`` draws, the same in each trial.
        known: Trials by the sparsity that was asked for; new ones are put into it.
        said: Warnings that were given already; each trial may give the same.

    Attributes:
        dense_score: The score of the dense model.

    Raises:
        ValueError: If the dense score is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        prune_to: Callable[[float], Masks],
        evaluate: Callable[[nn.Module], Any],
        max_drop: float,
        seed: int,
        known: MutableMapping[float, Trial],
        said: set[str],
    ) -> None:
        self._model, self._prune_to, self._evaluate = model, prune_to, evaluate
        self._max_drop, self._seed, self._known, self._said = max_drop, seed, known, said
        self._asked: list[float] = []
        self._sparsest: tuple[float, Masks, Snapshot] | None = None
        self.dense_score = self._score()
        if not math.isfinite(self.dense_score):
            raise ValueError(f"evaluate gave {self.dense_score} for the dense model: it must give a finite number")

    @property
    def trials(self) -> tuple[Trial, ...]:
        """What was tried, in that order."""
        return tuple(self._known[sparsity] for sparsity in self._asked)

    def within(self, sparsity: float) -> bool:
        """Whether the model is within the drop at a sparsity; it is tried unless that is known."""
        trial = self._known.get(sparsity) or self._try(sparsity)
        self._asked.append(sparsity)
        holds = self._holds(trial)
        if rank() == 0:
            _log.info("sparsity %.4f: %.4f, %s", trial.sparsity, trial.score, "within" if holds else "too low")
        return holds

    def holds_here(self, sparsity: float) -> bool:
        """Whether a sparsity is within the drop in a trial of this search; one that was known is made again."""
        is_kept = self._sparsest is not None and self._sparsest[0] == sparsity
        return not sparsity or is_kept or self._holds(self._try(sparsity))

    def forget(self) -> None:
        """Forget all trials, those that were known too."""
        self._known.clear()
        self._asked.clear()
        self._sparsest = None

    def restore_sparsest(self) -> tuple[Masks, Trial]:
        """Put the sparsest network that was within the drop into the model; its masks and its trial."""
        assert self._sparsest is not None  # `holds_here` has said so
        sparsity, masks, values = self._sparsest
        reshard(self._model)
        values.restore()
        return masks, self._known[sparsity]

    def _holds(self, trial: Trial) -> bool:
        return is_within(trial.score, self.dense_score, self._max_drop)

    def _try(self, sparsity: float) -> Trial:
        start = time.perf_counter()
        with saying_once(self._said):
            masks = self._prune_to(sparsity)
        values = Snapshot([self._model])  # evaluate may change the model
        trial = self._known[sparsity] = Trial(masks.sparsity, self._score(), time.perf_counter() - start)
        if self._holds(trial) and (self._sparsest is None or sparsity > self._sparsest[0]):
            self._sparsest = sparsity, masks, values
        return trial

    def _score(self) -> float:
        with together("evaluate"), isolated_rng(self._seed), only_training(self._model, ()):
            own = as_number(self._evaluate(self._model))
        return comparable(fmean(gather(own)))
