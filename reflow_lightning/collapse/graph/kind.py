"""How the steps of one family are recognised, and the register of all families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from reflow_lightning.running.registry import Registry

OPAQUE = "opaque"
"""The name of a step that is not looked into."""


class Kind:
    """A family of steps: by which names torch knows them, and by which one this package does.

    Attributes:
        functions: For each name of a function of torch, or of a tensor's method, the name of the step.
        modules: For each name of a class of `torch.nn`, the name of the step.
        operations: Names of steps that call nothing.
        packages: Others than torch whose functions and classes count too.
        moves: Whether the steps only place values elsewhere, or repeat them, or put constants beside them.
        views: Names of those whose output may share memory with what they are given.
    """

    functions: Mapping[str, str] = {}
    modules: Mapping[str, str] = {}
    operations: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    moves: bool = False
    views: frozenset[str] = frozenset()

    def fits(self, module: Any) -> bool:
        """Whether a module of such a class is such a step, as it is set."""
        return True

    def called(self, function: str, node: fx.Node) -> str:
        """The name of a step that calls a function or method; `OPAQUE` if its arguments make it another one."""
        return self.functions[function]


KINDS = Registry[Kind]("operator")
"""Families by the name of a step."""

FUNCTIONS = Registry[Kind]("function")
"""Families by the name of a function or method."""

MODULES = Registry[Kind]("module")
"""Families by the name of a class."""


def register(kind: Kind) -> None:
    """Let the steps of a family be recognised.

    Raises:
        ValueError: If another family has one of its names.
    """
    places = [(KINDS, name) for name in {*kind.operations, *kind.functions.values(), *kind.modules.values()}]
    places += [(FUNCTIONS, name) for name in kind.functions] + [(MODULES, name) for name in kind.modules]
    taken = [place for place in places if place[1] in place[0]]
    for registry, name in taken + places:  # those first that may be another's, so that nothing is half done
        registry.register(name, kind)


def words(text: str) -> dict[str, str]:
    """Names that torch and this package share.

    Example:
        >>> words("add sub")
        {'add': 'add', 'sub': 'sub'}
    """
    return {word: word for word in text.split()}


def is_known(module: Any) -> bool:
    """Whether a family has modules of this class: torch's, or a class of one of the family's packages.

    Example:
        >>> import reflow_lightning.collapse.operators
        >>> from torch import nn
        >>> class Linear(nn.Module):
        ...     pass
        >>> is_known(nn.Linear(1, 1)), is_known(Linear())
        (True, False)
    """
    name = type(module).__name__
    return name in MODULES and type(module).__module__.startswith(("torch.nn", *MODULES[name].packages))
