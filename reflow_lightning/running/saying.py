"""What was warned of already, and is not warned of again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def saying_once(said: set[str]) -> Iterator[None]:
    """A block that does not repeat a warning, of this block or of an earlier one with the same memory.

    Args:
        said: The memory: what was warned of so far.

    Example:
        >>> said = set()
        >>> with saying_once(said):
        ...     unsaid(["one"]), unsaid(["one", "other"]), unsaid(["one"])
        (['one'], ['other'], [])
        >>> sorted(said)
        ['one', 'other']
    """
    _said.append(said)
    try:
        yield
    finally:
        _said.pop()


@contextmanager
def unheard() -> Iterator[None]:
    """A block whose warnings are filtered out. They do not count as said, so that a later block can say them.

    Example:
        >>> with saying_once(set()):
        ...     with unheard():
        ...         _ = unsaid(["one"])
        ...     unsaid(["one"])
        ['one']
    """
    before = list(_said)
    _said[:] = [set(said) for said in before]
    try:
        yield
    finally:
        _said[:] = before


def unsaid(messages: Iterable[str]) -> list[str]:
    """Those that were not said in the blocks of `saying_once` that are open; from now on they count as said there.

    Args:
        messages: Whole messages, or what they are about.
    """
    new = [message for message in messages if not any(message in said for said in _said)]
    for said in _said:
        said.update(new)
    return new


_said: list[set[str]] = []  # the memories of the blocks that are open
