"""What criteria and allocations have in common: they are called, or they learn from data what is called then."""

from __future__ import annotations


def check_kind(kind: str, value: object, signature: str) -> None:
    """Check that an object can be a criterion, or an allocation.

    Args:
        kind: What it shall be, as the argument is called that takes it.
        value: The object.
        signature: How it is called, for the message.

    Raises:
        ValueError: If it is a class, or has neither ``__call__`` nor ``estimate``.

    Example:
        >>> check_kind("criterion", 0.9, "(name, weight) -> scores")
        Traceback (most recent call last):
        ValueError: criterion=0.9 is none: give a name, a callable (name, weight) -> scores, or an object with estimate
    """
    if isinstance(value, type):
        raise ValueError(f"{kind}={value.__name__} is a class: give an instance of it, such as {value.__name__}()")
    if not callable(value) and not hasattr(value, "estimate"):
        raise ValueError(f"{kind}={value!r} is none: give a name, a callable {signature}, or an object with estimate")


def check_found(kind: str, given: object, found: object, signature: str) -> None:
    """Check what the ``estimate`` of a criterion, or of an allocation, returned.

    Args:
        kind: What it is, as the argument is called.
        given: The criterion, or the allocation.
        found: What it returned.
        signature: How that is called, for the message.

    Raises:
        ValueError: If it can't be called.

    Example:
        >>> check_found("criterion", "Mine()", None, "(name, weight) -> scores")
        Traceback (most recent call last):
        ValueError: criterion Mine(): its estimate gave NoneType, but must return a callable (name, weight) -> scores
    """
    if not callable(found):
        raise ValueError(
            f"{kind} {given}: its estimate gave {type(found).__name__}, but must return a callable {signature}"
        )
