"""What a repair is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import nn

from reflow_lightning.layers.weight_norm import without_weight_norm
from reflow_lightning.running.declared import says
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.sharding import is_spread
from reflow_lightning.running.snapshot import Restorable, Snapshot


@dataclass(frozen=True)
class Calibration:
    """What a calibration did.

    Attributes:
        repaired: Names of the layers that were changed.
        skipped: Why other layers were left alone, by name.
        batches: Number of batches used.
        seconds: Time taken.
        before: The old values.
        how: What was done to the layers, by name.

    Example:
        >>> print(Calibration(("bn1", "fc"), {}, 10, 1.5, how={"bn1": "BatchNorm statistics", "fc": "moments"}))
        2 layers repaired with 10 batches in 1.5 s
        bn1  BatchNorm statistics
        fc   moments
    """

    repaired: tuple[str, ...]
    skipped: Mapping[str, str]
    batches: int
    seconds: float
    before: Restorable | None = field(default=None, repr=False)
    how: Mapping[str, str] = field(default_factory=dict)

    def undo(self) -> None:
        """Put every changed value back, bit for bit."""
        if self.before is not None:
            self.before.restore()

    def settled(self) -> Calibration:
        """The same record, without the old values; its ``undo`` does nothing."""
        return replace(self, before=None)

    def __str__(self) -> str:
        title = f"{len(self.repaired)} layers repaired with {self.batches} batches in {self.seconds:.1f} s"
        lines = {name: self.how.get(name, "repaired") for name in self.repaired}
        lines |= {name: f"left alone: {reason}" for name, reason in self.skipped.items()}
        width = max(map(len, lines), default=0)
        return "\n".join([title, *(f"{name.ljust(width)}  {what}" for name, what in lines.items())])


class Repair(Protocol):
    """Restores the signal of a model in place.

    A function will do. A repair may say more of itself; what it does not say is taken to be the costly answer:

    * ``needs_reference(model) -> bool``: whether it compares with the dense network. Unless ``False``, `Reflow` keeps a
      copy of that for it.
    * ``writes_weights: bool``: whether it changes weights, and not BatchNorm statistics alone. Unless ``False``, it
      gets a copy of the model where `fully_shard` spreads the weights over processes.
    * ``unit_by_unit: bool``: whether it reads and writes weights within `running.units.held` alone, so that a model
      that `fully_shard` spreads need not be whole at once. Unless ``True``, it gets whole copies of both networks.
    * ``restores_itself: bool``: whether it leaves the model unchanged if it raises, and returns the old values as
      ``before``, for ``undo()``. Unless ``True``, all values are remembered beforehand.
    * ``between_prunings(model) -> Repair``: what stands for it while more weights of the model are to be pruned.
    * ``keeping_zeros() -> Repair``: what stands for it where zeros must stay as they are; the repair itself if it
      leaves them so anyway. One that differs exchanges some of the zeros for others, as many in each tensor.
    * ``recipe(model, batches, forward, prunings, sparsity) -> Recipe``: what stands for it at the last pruning, and
      how many prunings lead there; see `Best`.
    """

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair ``model`` with ``batches`` that are on its device already; ``reference`` is the dense network."""


def needs_reference(repair: Repair, model: nn.Module) -> bool:
    """Whether a repair compares with the dense network; one that does not say is taken to."""
    asked = getattr(repair, "needs_reference", None)
    with without_weight_norm(model):
        return True if asked is None else bool(asked(model))


def writes_weights(repair: Repair) -> bool:
    """Whether a repair changes weights; one that does not say is taken to."""
    return bool(getattr(repair, "writes_weights", True))


def between_prunings(repair: Repair, model: nn.Module) -> Repair:
    """What stands for a repair while more weights are to be pruned: the repair itself, unless it says otherwise.

    Example:
        >>> from reflow_lightning.calibration import Auto
        >>> between_prunings(Auto(), nn.Linear(2, 2))
        NoRepair()
    """
    asked: Callable[[nn.Module], Repair] | None = getattr(repair, "between_prunings", None)
    if asked is None:
        return repair
    with without_weight_norm(model):
        stand_in = asked(model)
    if not callable(stand_in):
        raise TypeError(
            f"repair {repair}: its between_prunings gave {type(stand_in).__name__}, but must return a repair, such as "
            "itself or NoRepair()"
        )
    return stand_in


def keeping_zeros(repair: Repair) -> Repair:
    """What stands for a repair where zeros must stay as they are: the repair itself, unless it says otherwise."""
    asked: Callable[[], Repair] | None = getattr(repair, "keeping_zeros", None)
    return repair if asked is None else asked()


def moves_zeros(repair: Repair) -> bool:
    """Whether a repair exchanges some of the weights that are zero for others.

    Example:
        >>> from reflow_lightning.calibration import Reconstruct, Reselect
        >>> moves_zeros(Reselect()), moves_zeros(Reconstruct())
        (True, False)
    """
    return keeping_zeros(repair) != repair


@contextmanager
def undone_if_it_fails(done: Calibration) -> Iterator[None]:
    """A block after whose failure what was done before is undone too."""
    try:
        yield
    except BaseException:
        done.undo()
        raise


_UNDONE: ContextVar[bool] = ContextVar("_UNDONE", default=False)


@contextmanager
def undone_by_caller(yes: bool = True) -> Iterator[None]:
    """A block whose caller puts back all values if it fails: repairs of this package then keep no second copy of them.

    Repairs of others go on getting a `Calibration` with an ``undo()`` from any repair that they call.
    """
    token = _UNDONE.set(yes)
    try:
        yield
    finally:
        _UNDONE.reset(token)


def remembered(modules: Iterable[nn.Module]) -> Restorable | None:
    """The values of modules that a repair is about to change; ``None`` if the caller has them."""
    return None if _UNDONE.get() else Snapshot(modules)


def leaves_undo_to_caller(repair: Repair) -> bool:
    """Whether a repair can do without a copy of its own; a subclass says so anew, since it may call ``undo()``.

    A repair that runs others can if they can.
    """
    return says(repair, "leaves_undo_to_caller")


def unit_by_unit(repair: Repair) -> bool:
    """Whether a repair can do with a network that is whole one unit at a time; a subclass says so anew.

    A repair that runs others can if they can.

    Example:
        >>> from reflow_lightning.calibration import Align, Moments
        >>> unit_by_unit(Moments()), unit_by_unit(Align())
        (True, False)
    """
    return says(repair, "unit_by_unit")


def run(
    repair: Repair, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None
) -> Calibration:
    """Run a repair; one that does not restore the model itself is undone by a snapshot.

    Raises:
        TypeError: If it returns no `Calibration`.
    """
    restores = getattr(repair, "restores_itself", False) or is_spread(model)
    before = None if restores else Snapshot([model])
    try:
        with undone_by_caller(_UNDONE.get() and leaves_undo_to_caller(repair)):
            result = repair(model, batches, forward, reference)
        if not isinstance(result, Calibration):
            raise TypeError(f"repair {repair} returned {type(result).__name__}: it must return a Calibration")
    except BaseException:
        if before is not None:
            before.restore()
        raise
    return replace(result, before=before) if result.before is None and before is not None else result
