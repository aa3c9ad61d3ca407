"""Things that are found by name: criteria, allocations, repairs, and what a user adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.names import nearest

T = TypeVar("T")


class UnknownNameError(ReflowError, ValueError):
    """Nothing was registered by a name."""


class Registry(Mapping[str, T], Generic[T]):
    """Objects by name. A name is given once, so that a run means the same wherever it is written.

    Args:
        kind: What they are, as the argument is called that takes their names, such as ``"criterion"``.
        check: Called with the name and an object before that is registered; raises if it is none of its kind.

    Example:
        >>> criteria = Registry[str]("criterion")
        >>> criteria.register("magnitude", "the absolute value")
        >>> criteria["magnitude"]
        'the absolute value'
        >>> criteria.named("magnitud")
        Traceback (most recent call last):
        reflow_lightning.running.registry.UnknownNameError: criterion='magnitud' is unknown: use one of [...]...
    """

    def __init__(self, kind: str, check: Callable[[str, T], None] = lambda name, value: None) -> None:
        self._kind = kind
        self._check = check
        self._found: dict[str, T] = {}

    def register(self, name: str, value: T) -> None:
        """Give an object a name. The same object may be given the same name again.

        Raises:
            ValueError: If the name is empty, or taken by another object, or the object is refused. Nothing is
                registered then.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"name={name!r} must be a text that is not empty: the {self._kind} is found by it")
        if name in self._found and self._found[name] is not value:
            raise ValueError(
                f"{self._kind} '{name}' is registered already, as {self._found[name]!r}: register yours by another name"
            )
        self._check(name, value)
        self._found[name] = value

    def named(self, name: str, otherwise: str = "") -> T:
        """The object of a name.

        Args:
            name: The name.
            otherwise: What may stand in the place of a name, for the message, such as ``", or a callable"``.

        Raises:
            UnknownNameError: If nothing was registered by that name; it lists the names that were.
        """
        if not isinstance(name, str) or name not in self._found:
            hint = f"{otherwise}{nearest(str(name), self._found)}"
            raise UnknownNameError(f"{self._kind}={name!r} is unknown: use one of {sorted(self._found)}{hint}")
        return self._found[name]

    def __getitem__(self, name: str) -> T:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
