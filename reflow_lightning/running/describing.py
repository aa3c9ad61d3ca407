"""Objects and their arguments in words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
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
        value = arguments.get(name, parameter.default)  # a subclass may take what it does not keep
        if value is not parameter.default and value != parameter.default:
            word = "" if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else f"{name}="
            written.append(f"{word}{shown(value)}")
    return f"{of.__name__}({', '.join(written)})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text: the first column begins, the others end at one place.

    Example:
        >>> print(aligned([["layer", "mean"], ["fc", "0.5"]]))
        layer  mean
        fc      0.5
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def shown(value: Any) -> str:
    """A value in words, in which functions and objects have names and no addresses.

    Example:
        >>> shown(["a", shown]), shown(object())
        ("['a', shown]", '<object object>')
    """
    if isinstance(name := getattr(value, "__qualname__", None), str):
        return name
    functions = re.sub(r"<function (\S+) at 0x[0-9a-f]+>", r"\1", repr(value))
    return re.sub(r" at 0x[0-9a-f]+", "", functions)


def as_texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arguments in words that are the same in the next process: without addresses.

    Example:
        >>> as_texts({"sparsity": 0.9, "criterion": as_call})
        {'sparsity': '0.9', 'criterion': '<function as_call>'}
    """
    return {name: re.sub(r" at 0x[0-9a-f]+", "", repr(value)) for name, value in arguments.items()}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which of some arguments differ, in words; ``""`` if none does. What one side lacks does not count.

    Example:
        >>> changes({"sparsity": "0.8", "seed": "0"}, {"sparsity": "0.9", "seed": "0"})
        'sparsity=0.9, not 0.8'
    """
    differing = (name for name in now if name in before and before[name] != now[name])
    return ", ".join(f"{name}={now[name]}, not {before[name]}" for name in differing)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return next(filter(None, str(error).splitlines()), type(error).__name__)


def summary(error: BaseException) -> str:
    """The kind of an error and the first line of what it says.

    Example:
        >>> summary(ValueError("too long", "and more"))
        "ValueError: ('too long', 'and more')"
    """
    return f"{type(error).__name__}: {first_line(error)}"
