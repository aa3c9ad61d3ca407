"""An object as the call that makes it, for `repr`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any


def as_call(of: type, arguments: Mapping[str, Any]) -> str:
    """The call of a class, without the arguments that have their default value.

    Args:
        of: The class.
        arguments: Its arguments by name.

    Example:
        >>> class Tree:
        ...     def __init__(self, height, *, leaves="green", fruits=()): ...
        >>> as_call(Tree, {"height": 3, "leaves": "red", "fruits": ()})
        "Tree(3, leaves='red')"
    """
    written = []
    for name, parameter in inspect.signature(of).parameters.items():
        value = arguments[name]
        if value is not parameter.default and value != parameter.default:
            word = "" if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else f"{name}="
            written.append(f"{word}{value!r}")
    return f"{of.__name__}({', '.join(written)})"
