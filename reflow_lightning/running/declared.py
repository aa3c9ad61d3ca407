"""What an object says about itself by attributes, beside what it does."""

from __future__ import annotations


def says(thing: object, name: str) -> bool:
    """Whether the class of an object says something about its objects, as a value or as a method of theirs.

    A subclass says so anew, since it may do something else.

    Example:
        >>> class Careful:
        ...     unit_by_unit = True
        >>> class Changed(Careful):
        ...     pass
        >>> says(Careful(), "unit_by_unit"), says(Changed(), "unit_by_unit")
        (True, False)
    """
    said = vars(type(thing)).get(name, False)
    return bool(said(thing) if callable(said) else said)
