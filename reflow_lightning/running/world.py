"""Whether this process runs together with others (`torch.distributed`), and its place among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar
from weakref import WeakSet

import torch.distributed as dist

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that run together; 1 without `torch.distributed`, and for a process that is `alone`."""
    if _alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """The place of this process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def share(total: int) -> int:
    """How many of ``total`` batches are this process's, when process r of R takes the batches r, r + R, ...

    Example:
        >>> share(50)
        50
    """
    return len(range(rank(), total, world_size()))


def dealt(tasks: Iterable[T]) -> Iterator[T]:
    """The tasks of this process, where the processes take them in turn; all of them if there is no other process.

    Example:
        >>> list(dealt("abc"))
        ['a', 'b', 'c']
    """
    return islice(tasks, rank(), None, world_size())


_alone: WeakSet[object] = WeakSet()


def go_alone(who: object) -> None:
    """Let this process wait for no other one, until `rejoin` is called with the same object, or it is gone."""
    _alone.add(who)


def rejoin(who: object) -> None:
    """Take back a `go_alone`; nothing happens if there was none."""
    _alone.discard(who)


class _Block:
    """Who is alone in a block."""


@contextmanager
def alone() -> Iterator[None]:
    """A block in which this process has work of its own, though a process group is there: it waits for no other one.

    Example:
        >>> with alone():
        ...     world_size()
        1
    """
    go_alone(block := _Block())
    try:
        yield
    finally:
        rejoin(block)
