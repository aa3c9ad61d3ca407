"""From criteria and allocations that need data to what they find on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from reflow_lightning.pruning.kinds import check_found
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.batches import Batches, Limit, device_of
from reflow_lightning.running.declared import says
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.plain import plain_copy
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import is_spread
from reflow_lightning.running.units import runnable

Found = TypeVar("Found", covariant=True)


@runtime_checkable
class NeedsData(Protocol[Found]):
    """A criterion or an allocation that learns from data what scores, or shares out, in the end.

    With an attribute ``unit_by_unit = True`` its class says that it runs the model without gradients and reads no
    weight beside that, so that a model that `fully_shard` spreads need not be whole at once. Otherwise it gets a whole
    copy. A subclass says so anew.
    """

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Found:
        """Read the batches once and leave the model as it is."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read, and how.

    Attributes:
        batches: Any iterable of batches. ``None``: there are none.
        max_batches: At most so many; ``"auto"`` stands for 200, of all processes together.
        forward: See `reflow_lightning.calibrate`.
        progress: Show a bar in a terminal if it takes more than two seconds.
    """

    batches: Iterable[Any] | None = None
    max_batches: Limit = 50
    forward: AnyForward | None = None
    progress: bool = False


@dataclass(frozen=True)
class Role(Generic[Found]):
    """What is to be found on data, in the words of messages.

    Attributes:
        kind: What it is, as the argument is called.
        task: What it does on the batches.
        signature: How what is found is called.
        others: Which of its kind need no data, nor whole weights.
    """

    kind: str
    task: str
    signature: str
    others: str


def estimated(
    given: Found | NeedsData[Found],
    role: Role[Found],
    model: nn.Module,
    weights: Mapping[str, Tensor],
    reading: Reading,
) -> Found:
    """What a criterion or an allocation finds on batches; one that needs none is returned as it is.

    The model, its gradients and the random state are left as they are. Where processes run together, call it on all of
    them, each with its own batches or none; if one fails, all raise.

    Args:
        given: The criterion, or the allocation.
        role: What is to be found.
        model: Any module.
        weights: The selected weights, by parameter name.
        reading: What is read.

    Raises:
        ValueError: If it asks for batches and there are none.

    Example:
        >>> from reflow_lightning.pruning import Magnitude
        >>> role = Role("criterion", "scoring", "(name, weight) -> scores", "'magnitude'")
        >>> estimated(Magnitude(), role, nn.Linear(2, 1), {}, Reading())
        Magnitude()
    """
    if not isinstance(given, NeedsData):
        return given
    batches = _Refusal(f"{role.kind} {given}", role.others) if reading.batches is None else reading.batches
    moved = Batches(batches, reading.max_batches, device_of(model), task=role.task, progress=reading.progress)
    forward = moved.alike(as_forward(reading.forward))
    with _runnable(given, model) as network, isolated_rng(), only_training(network, ()), together(role.task):
        own = {n: network.get_parameter(n).detach() for n in weights} if is_spread(model) else weights
        found: Found = given.estimate(network, own, moved, forward)
        check_found(role.kind, given, found, role.signature)
    moved.check()
    return found


@contextmanager
def _runnable(given: NeedsData[Any], model: nn.Module) -> Iterator[nn.Module]:
    """A network that each process can run by itself, and differentiate unless all that is needed is whole by units."""
    if says(given, "unit_by_unit"):
        with runnable(model) as network:
            yield network
    else:
        yield plain_copy(model) if is_spread(model) else model


class _Refusal:
    """Batches that may be asked for in vain."""

    def __init__(self, subject: str, others: str) -> None:
        self.subject = subject
        self.others = others

    def __iter__(self) -> Iterator[Any]:
        raise ValueError(
            f"{self.subject} needs data, but batches=None: pass batches=loader, drawn and transformed as in training, "
            f"or use {self.others}"
        )
