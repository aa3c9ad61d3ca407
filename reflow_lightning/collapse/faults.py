"""Errors of this package's own analysis, which must never read as "nothing to remove"."""

from __future__ import annotations

import logging
import os

from reflow_lightning.collapse.edits import Row
from reflow_lightning.running.describing import summary

STRICT = "REFLOW_STRICT"
"""A variable of the environment. Where it is set, an error of our own is raised, as in this package's tests."""

_log = logging.getLogger(__name__)


class Faults:
    """The errors of our own that came up in one collapse. A user gets the rest of it, and is told of them.

    Attributes:
        rows: One for each error, for the report.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def note(self, error: Exception, where: str) -> None:
        """Log an error with its traceback, once for each place, and keep it for the report.

        Args:
            error: What was raised.
            where: The layer or step that was looked at.

        Raises:
            Exception: The error itself, where `STRICT` is set.
        """
        if os.environ.get(STRICT):
            raise error
        row = Row(
            "error", where, f"{summary(error)}: a fault of reflow_lightning, not of the network; please report it"
        )
        if row not in self.rows:
            self.rows.append(row)
            _log.error("collapse failed at %s, where nothing is removed: please report this", where, exc_info=error)
