"""Allocations by name."""

from __future__ import annotations

from reflow_lightning.pruning.allocations.protocols import Allocation, AnyAllocation, DataAllocation
from reflow_lightning.pruning.kinds import check_kind
from reflow_lightning.running.registry import Registry


def _check(_: str, allocation: Allocation | DataAllocation) -> None:
    check_kind("allocation", allocation, "(scores, keep, floors) -> number to keep by name")


ALLOCATIONS = Registry[Allocation | DataAllocation]("allocation", _check)
"""Every allocation that has a name."""


def register_allocation(name: str, allocation: Allocation | DataAllocation) -> None:
    """Give an allocation a name, by which `prune`, `Reflow` and the app's configuration find it.

    Args:
        name: The name.
        allocation: A callable ``(scores, keep, floors) -> number to keep by name``, or a `DataAllocation`.

    Raises:
        ValueError: If the name is taken, or the allocation is none. Nothing is registered then.

    Example:
        >>> def first_come(scores, keep, floors):
        ...     ...
        >>> register_allocation("uniform", first_come)
        Traceback (most recent call last):
        ValueError: allocation 'uniform' is registered already, as <function uniform at ...>: register yours by ...
    """
    ALLOCATIONS.register(name, allocation)


def resolve_allocation(allocation: AnyAllocation) -> Allocation | DataAllocation:
    """Look an allocation up by name; any other is returned as it is.

    Raises:
        ValueError: If the name is unknown, or it is no allocation.

    Example:
        >>> resolve_allocation("entropy")
        EntropyBudget(zeros='ignore', saturated=False)
    """
    if isinstance(allocation, str):
        return ALLOCATIONS.named(allocation, ", a callable, or an object with estimate")
    _check("", allocation)
    return allocation
