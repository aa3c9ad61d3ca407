"""The inputs of a graph: which arguments of a call it takes, and which it freezes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from reflow_lightning.running.arguments import Arguments


def names_of(model: nn.Module, arguments: Arguments) -> list[str]:
    """A name for each argument of a call, in the order of the parameters: the name of the parameter that it is for.

    Args:
        model: The network that is called.
        arguments: By position or by name.

    Example:
        >>> names_of(nn.Bilinear(1, 1, 1), (1, 2)), names_of(nn.Bilinear(1, 1, 1), {"input2": 2, "input1": 1})
        (['input1', 'input2'], ['input1', 'input2'])
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    if isinstance(arguments, dict):
        order = [p.name for p in parameters if p.name in arguments]
        return [*order, *(name for name in arguments if name not in order)]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "input")
    return names[: len(arguments)] + [f"{rest}_{i}" for i in range(len(arguments) - len(names))]


def is_flag(value: Any) -> bool:
    """Whether an argument chooses what a forward pass does, and is no value that it works with.

    So are ``None``, truth values and texts, and collections of nothing else.

    Example:
        >>> [is_flag(value) for value in (None, True, "mean", (None, False), 2, 0.5)]
        [True, True, True, True, False, False]
    """
    if isinstance(value, dict):
        value = list(value.values())
    return (
        value is None or isinstance(value, (bool, str)) or (type(value) in (list, tuple) and all(map(is_flag, value)))
    )
