"""Format numbers of what is written to files, so that a file of a newer version is not taken for a damaged one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from reflow_lightning.running.errors import ReflowError

KEY = "format"


class FormatError(ReflowError, ValueError):
    """It was written by a newer version of this package."""


def check_format(state: Mapping[str, Any], newest: int, subject: str) -> int:
    """The format number of a state: 0 where it has none, as version 0.1 wrote it.

    Args:
        state: What was written.
        newest: The largest number that is understood here.
        subject: What it is, for messages, such as ``"masks"``.

    Raises:
        FormatError: If the number is larger.
        ValueError: If it is no such number.

    Example:
        >>> check_format({"format": 1}, newest=1, subject="masks"), check_format({}, 1, "masks")
        (1, 0)
    """
    number = state.get(KEY, 0)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"format={number!r} of {subject} must be a whole number: use another copy")
    if number > newest:
        raise FormatError(
            f"these are {subject} of format {number}, but this version of reflow_lightning reads up to {newest}: "
            "upgrade it, or save them anew with this version"
        )
    return number


@contextmanager
def reading(path: str | os.PathLike[str], writer: str) -> Iterator[None]:
    """A block that reads a file: errors name it and, unless a newer version wrote it, what writes such files."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or no file of {writer}: {error}") from error
