"""Glob patterns on the names of parameters and modules, so that YAML and the command line can write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

Patterns = str | Iterable[str]

_FEW = 3


def as_patterns(patterns: Patterns) -> tuple[str, ...]:
    """One glob pattern or several, as a tuple.

    Example:
        >>> as_patterns("layer1.*")
        ('layer1.*',)
    """
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def matches(names: Iterable[str], pattern: str) -> bool:
    """Whether a pattern matches one of the names.

    Example:
        >>> matches(["conv1.weight"], "conv?.*")
        True
    """
    return any(fnmatchcase(name, pattern) for name in names)


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint at the end of a message: the names most like the one that was not found, if any is.

    Example:
        >>> nearest("covn1", ["conv1", "fc"])
        '; nearest: conv1'
    """
    close = get_close_matches(name, list(names), n=3)
    return f"; nearest: {', '.join(close)}" if close else ""


def instead(pattern: str, names: Iterable[str]) -> str:
    """A hint at the end of a message: what to write in place of a pattern that matches nothing.

    Example:
        >>> instead("fc", ["fc.weight", "fc.bias"]), instead("fc.wieght", ["fc.weight"])
        ("; all in module 'fc' are 'fc.*'", '; nearest: fc.weight')
    """
    names = list(names)
    inside = any(name.startswith(f"{pattern}.") for name in names)
    return f"; all in module '{pattern}' are '{pattern}.*'" if inside else nearest(pattern, names)


def few(texts: Iterable[str], separator: str = ", ", what: str = "") -> str:
    """The first three of many texts, and how many there are besides.

    Args:
        texts: The texts.
        separator: Between them.
        what: What they are, if that needs to be said.

    Example:
        >>> few("abcde"), few("abcde", what="letters"), few("ab", separator="; ")
        ('a, b, c and 2 more', 'a, b, c and 2 more letters', 'a; b')
    """
    listed = list(texts)
    more = f" and {len(listed) - _FEW} more {what}".rstrip() if len(listed) > _FEW else ""
    return separator.join(listed[:_FEW]) + more


def few_reasons(reasons: Mapping[str, str]) -> str:
    """The first three names for each of the first three reasons.

    Args:
        reasons: A reason for each name.

    Example:
        >>> few_reasons({"a": "is odd", "b": "is odd", "c": "is even"})
        "'a', 'b': is odd; 'c': is even"
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(f"'{name}'")
    return few((f"{few(named)}: {reason}" for reason, named in names.items()), "; ", "reasons")
