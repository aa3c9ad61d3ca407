"""What is tried of a kind of fault: inputs, and what is lost with each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Trial = Callable[[], str]
"""Tries one input, and returns what was lost in a few words, or ``""``."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault that was found in the field.

    Attributes:
        name: A short name for tests.
        title: What goes wrong, in a few words.
        neighbours: The inputs of this kind, in words.
        trials: By name, one function an input.
        peer: What Lightning's ``ModelPruning`` does with the first of them, as a function that tells it; ``None`` where
            it has nothing of the kind.
    """

    name: str
    title: str
    neighbours: str
    trials: dict[str, Trial]
    peer: Callable[[], str] | None = None


def lost(kind: Kind) -> dict[str, str]:
    """What is lost by trial; an error counts as a loss."""
    found = {}
    for name, trial in kind.trials.items():
        try:
            found[name] = trial()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}".split("\n")[0]
    return {name: text for name, text in found.items() if text}


def named(*trials: Trial) -> dict[str, Trial]:
    """Trials by the names of their functions."""
    return {trial.__name__: trial for trial in trials}


def together(kinds: Sequence[Kind]) -> int:
    """How many inputs kinds have."""
    return sum(len(kind.trials) for kind in kinds)
