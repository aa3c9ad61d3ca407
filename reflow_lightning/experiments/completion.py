"""Complete the names of criteria, allocations and repairs in a shell, where Hydra knows only the default."""

from __future__ import annotations

import os
from collections.abc import Sequence

from reflow_lightning.experiments.registered import KINDS, registered


def completions(line: str) -> list[str]:
    """What the last word of a command line may become, if it gives one of the keys that take a registered name.

    Example:
        >>> completions("reflow-lightning epochs=3 allocation=e")
        ['allocation=entropy', 'allocation=erk']
        >>> completions("reflow-lightning epochs=")
        []
    """
    key, equals, begin = line.rpartition(" ")[2].partition("=")
    kind = key.removeprefix("reflow.")
    if not equals or kind not in KINDS:
        return []
    return [f"{key}={name}" for name in registered(kind) if name.startswith(begin)]


def complete(arguments: Sequence[str]) -> bool:
    """Answer a press of Tab; ``False`` if it is none, or is left to Hydra.

    Args:
        arguments: Those of the command: Hydra's shell functions call it with ``-sc query=bash``, or another shell's
            name, and the line in ``COMP_LINE``.
    """
    asks = len(arguments) == 2 and arguments[0] in ("-sc", "--shell-completion") and arguments[1].startswith("query=")
    found = completions(os.environ.get("COMP_LINE", "")) if asks else []
    if found:
        print("\n".join(found))
    return bool(found)
