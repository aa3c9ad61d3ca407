"""The strongest repair that fits into a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from reflow_lightning.calibration.align import Align
from reflow_lightning.calibration.auto import Auto
from reflow_lightning.calibration.pace import Pace, pace_of
from reflow_lightning.calibration.recipes import PRUNINGS, Recipe, recipe, recipe_keeping_zeros
from reflow_lightning.calibration.repair import Calibration, Repair, run
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.running.sharding import whole

_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


def seconds_of(budget: float | str) -> float:
    """A time in seconds, of a number of seconds or a text such as ``"90s"``, ``"5min"`` or ``"1h"``.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> seconds_of("1.5min"), seconds_of(10)
        (90.0, 10.0)
        >>> seconds_of("soon")
        Traceback (most recent call last):
        ValueError: budget='soon' must be a number of seconds or a time such as '90s', '5min' or '1h'
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", budget) if isinstance(budget, str) else None
    try:
        seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else float(budget)
    except (KeyError, TypeError, ValueError):
        seconds = -1.0
    if isinstance(budget, bool) or not 0 < seconds < float("inf"):
        raise ValueError(f"budget={budget!r} must be a number of seconds or a time such as '90s', '5min' or '1h'")
    return seconds


@dataclass(frozen=True)
class Best:
    """The strongest repair that fits into a time; see `recipe`.

    How much fits depends on how fast the machine is, which is measured on the first batch. So two machines may choose
    otherwise, and one may on another day; `PruneEvent.recipe` says what was done, and it can be asked for by name.
    A prune event may take several prunings, or move zeros; `calibrate`, which finds the weights pruned already by masks
    that it does not know, does neither.

    Args:
        budget: The time, in seconds or such as ``"5min"``. It is kept roughly: small networks, whose layers cost more
            than their arithmetic, take longer.
        logits: See `Align`.

    Example:
        >>> Best("90s").budget
        '90s'
    """

    writes_weights: ClassVar[bool] = False  # but where it has the dense network
    restores_itself: ClassVar[bool] = True
    leaves_undo_to_caller: ClassVar[bool] = True
    choose: ClassVar[Callable[..., Recipe]] = staticmethod(recipe)
    budget: float | str = "1min"
    logits: float = 0.1

    def __post_init__(self) -> None:
        seconds_of(self.budget)
        Align(logits=self.logits)

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether the dense network is needed: always, since all repairs but statistics compare with it."""
        return True

    def between_prunings(self, model: nn.Module) -> Repair:
        """What `Auto` does between the prunings of a schedule: training goes on there anyway."""
        return Auto().between_prunings(model)

    def recipe(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        forward: Forward,
        prunings: Sequence[int] = PRUNINGS,
        sparsity: float = 0.0,
    ) -> Recipe:
        """Choose for a model.

        Args:
            model: The model.
            batches: They are counted, and the first is run.
            forward: Runs a network on a batch.
            prunings: See `recipe`.
            sparsity: What is reached; the sparser, the fewer weights the equations of a row have.
        """
        with whole(model):
            found = pace_of(model, batches, forward)
        slowest = Pace(*(max(of_all) for of_all in zip(*gather(found), strict=True)))
        if not slowest.forward:
            return Recipe(prunings[-1], Auto(), Auto(), "statistics and moments")
        return self.choose(seconds_of(self.budget), slowest, prunings, self.logits, sparsity)

    def keeping_zeros(self) -> Best:
        """The strongest repair that leaves zeros as they are."""
        return BestKeepingZeros(self.budget, self.logits)

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        if reference is None:
            warn('repair="best" has no dense network to compare with, and does what "auto" does: pass reference=')
            return run(Auto(), model, batches, forward, reference)
        chosen = self.keeping_zeros().recipe(model, batches, forward, (1,), _zeros_in(model)).repair
        return run(chosen, model, batches, forward, reference)


class BestKeepingZeros(Best):
    """`Best` where zeros stay as pruning chose them, as for a pattern: see `recipe_keeping_zeros`."""

    leaves_undo_to_caller: ClassVar[bool] = True
    choose = staticmethod(recipe_keeping_zeros)

    def keeping_zeros(self) -> Best:
        """It leaves them as they are anyway."""
        return self


def _zeros_in(model: nn.Module) -> float:
    """The share of zeros in the matrices of a model."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    kept = sum(int(matrix.count_nonzero()) for matrix in matrices)
    return 1 - kept / max(1, sum(matrix.numel() for matrix in matrices))
