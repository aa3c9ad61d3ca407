"""What processes send to each other when one of them asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_OFFERED: list[Callable[[], None]] = []


@contextmanager
def offered(sending: Callable[[], None]) -> Iterator[int]:
    """A block in which any process may ask the others to send something, wherever they come together next.

    All processes must be in it, and offer the same things in the same order.

    Args:
        sending: What all of them do then, in step with each other.

    Yields:
        The number by which to ask for it, from 1; see `asked_for` of `reflow_lightning.running.processes`.

    Example:
        >>> with offered(lambda: print("sent")) as number:
        ...     send(number)
        sent
    """
    _OFFERED.append(sending)
    try:
        yield len(_OFFERED)
    finally:
        _OFFERED.remove(sending)


def send(number: int) -> None:
    """Do what was offered under a number."""
    _OFFERED[number - 1]()
