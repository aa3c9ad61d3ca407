"""Files that are written whole or not at all, and read without running what is in them."""

from __future__ import annotations

import io
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from reflow_lightning.running.describing import first_line


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file beside its place and then move it there: a crash or a full disk leaves what was there before.

    Args:
        path: The file; its folder must exist.
        content: All of its bytes.

    Raises:
        OSError: If it can't be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_whole(path, b"all of it")
        >>> path.read_text(), [p.name for p in path.parent.iterdir()]
        ('all of it', ['note.txt'])
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # its own for each writer, be it a thread
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):  # there may be none, or no such folder
            beside.unlink()
        if isinstance(error, OSError) and error.errno:  # a full disk's error names no file, others name the one beside
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_tensors(path: Path, content: Any) -> None:
    """Write nested tensors and plain types, as `torch.save` does, but whole or not at all.

    Raises:
        OSError: If it can't be written.
    """
    buffer = io.BytesIO()  # writing itself, torch would hide that the disk is full behind an error of its own
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


def read_tensors(path: Path) -> Any:
    """Read what `torch.save` wrote, if it holds nothing but tensors and plain types. No code in it is run.

    Raises:
        OSError: If it can't be read.
        ValueError: If it holds anything else, or is damaged. The message says why, in one line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.pt"
        >>> write_tensors(path, {"a": torch.ones(1)})
        >>> read_tensors(path)
        {'a': tensor([1.])}
    """
    content = path.read_bytes()
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what bytes that are no such file raise has no common type
        reason = first_line(error)
        if reason.startswith("Weights only load failed"):  # torch goes on with the advice to run what is in there
            reason = "it holds more than tensors and plain types, or something else altogether"
        raise ValueError(reason) from error
