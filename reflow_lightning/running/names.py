"""Names of parameters and modules, and glob patterns on them, which YAML and the command line can write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

Patterns = str | Iterable[str]


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


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches a name.

    Example:
        >>> matches_any("conv1.weight", ["fc.*", "conv?.*"])
        True
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def owner_of(parameter: str) -> str:
    """The name of the module that a parameter belongs to, though a parametrization of that module holds it.

    Example:
        >>> owner_of("0.weight"), owner_of("0.parametrizations.weight.original"), owner_of("weight")
        ('0', '0', '')
    """
    return re.sub(r"(^|\.)parametrizations\..*", "", parameter.rpartition(".")[0])


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


def few(texts: Iterable[str], separator: str = ", ", what: str = "", most: int = 3) -> str:
    """The first of many texts, and how many there are besides.

    Args:
        texts: The texts.
        separator: Between them.
        what: What they are, if that needs to be said.
        most: So many at most.

    Example:
        >>> few("abcde"), few("abcde", what="letters"), few("ab", separator="; ")
        ('a, b, c and 2 more', 'a, b, c and 2 more letters', 'a; b')
    """
    listed = list(texts)
    more = f" and {len(listed) - most} more {what}".rstrip() if len(listed) > most else ""
    return separator.join(listed[:most]) + more


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
