"""The file that Hydra keeps for each job, such as ``reflow.log``: what was done at each pruning, and all warnings."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TOLD = "lightning.pytorch.utilities.rank_zero"  # Lightning's logger, through which this package tells things, too


def _is_ours(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or "reflow_lightning" in Path(record.pathname).parts


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


@contextmanager
def kept_in_file() -> Iterator[None]:
    """Write into the job's file what this package tells and all warnings; the terminal gets warnings alone, as ever."""
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    told = logging.getLogger(_TOLD)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.addFilter(_is_warning)
    before = told.handlers, told.level, told.propagate, warnings.showwarning
    told.handlers, told.propagate = [terminal, *map(_Copy, files)], False
    told.setLevel(logging.INFO)

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        before[-1](message, category, *where, **more)
        record = logging.LogRecord(category.__name__, logging.WARNING, "", 0, str(message), None, None)
        for file in files:
            file.handle(record)

    warnings.showwarning = show
    try:
        yield
    finally:
        told.handlers, level, told.propagate, warnings.showwarning = before
        told.setLevel(level)


class _Copy(logging.Handler):
    """Gives another handler what is ours."""

    def __init__(self, file: logging.Handler) -> None:
        super().__init__()
        self._file = file
        self.addFilter(_is_ours)

    def emit(self, record: logging.LogRecord) -> None:
        self._file.handle(record)
