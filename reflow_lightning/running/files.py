"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place and then move it there: a crash or a full disk leaves what was there before.

    Args:
        path: The file; its folder must exist.
        write: Writes the content into an open file.

    Raises:
        OSError: If it can't be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_whole(path, lambda file: file.write(b"all of it"))
        >>> path.read_text(), [p.name for p in path.parent.iterdir()]
        ('all of it', ['note.txt'])
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # its own for each writer, be it a thread
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):  # there may be none, or no such folder
            beside.unlink()
        if isinstance(error, OSError) and error.errno:  # that of a full disk names no file, others the one beside
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
