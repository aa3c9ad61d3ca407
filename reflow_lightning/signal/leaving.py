"""Layers that can't be measured: left out, with the reason, while the network runs on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from reflow_lightning.running.describing import summary
from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.processes import gather, warn


class NothingToMeasureError(ReflowError, ValueError):
    """No layer of a network can be measured; all processes find that together."""


@contextmanager
def leaving_out(reasons: MutableMapping[str, str], layer: str) -> Iterator[None]:
    """A block that measures one layer: if it fails, the reason is noted, and nothing is raised.

    It stands within the network's own forward pass, which an error of ours must not end.

    Example:
        >>> reasons = {}
        >>> with leaving_out(reasons, "conv1"):
        ...     raise IndexError("no such channel")
        >>> reasons
        {'conv1': 'IndexError: no such channel'}
    """
    try:
        yield
    except Exception as error:  # odd activations may make torch raise anything
        reasons.setdefault(layer, summary(error))


def merge_reasons(reasons: MutableMapping[str, str]) -> None:
    """Have the reasons of all processes, which all must call this."""
    for of_rank in gather(dict(reasons)):
        for layer, reason in of_rank.items():
            reasons.setdefault(layer, reason)


def warn_of_left_out(reasons: Mapping[str, str]) -> None:
    """Name the layers that are left out, if there are any."""
    if reasons:
        named = "; ".join(f"'{layer}': {reason}" for layer, reason in reasons.items())
        warn(f"not measured were {named}. All else is; to choose what is, name modules with layers=('...',)")
