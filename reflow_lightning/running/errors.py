"""The errors that this package defines. Wrong arguments are `ValueError` or `TypeError`, as everywhere in Python."""

from __future__ import annotations


class ReflowError(Exception):
    """The base of every error that this package defines, so that one `except` catches them all.

    Example:
        >>> from reflow_lightning.running.processes import PeerError
        >>> issubclass(PeerError, ReflowError)
        True
    """
