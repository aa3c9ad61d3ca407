"""The names of criteria, allocations and repairs, without waiting for torch."""

from __future__ import annotations

import re
import sys
from importlib.resources import files

_HOMES = {  # by argument: the folder of what comes with the package, and where all that have a name are found
    "criterion": ("pruning/criteria", "pruning.criteria.registry", "CRITERIA"),
    "allocation": ("pruning/allocations", "pruning.allocations.registry", "ALLOCATIONS"),
    "repair": ("calibration", "calibration.calibrate", "REPAIRS"),
}
KINDS = tuple(_HOMES)
"""The arguments that take such names."""


def registered(kind: str) -> list[str]:
    """The names that an argument takes: those in the registry if it was imported, otherwise those in its files.

    Whoever imported it may have registered more. What extensions register is known only when a run starts.

    Args:
        kind: The argument, one of `KINDS`.

    Example:
        >>> "lamp" in registered("allocation")
        True
    """
    folder, home, registry = _HOMES[kind]
    if (module := sys.modules.get(f"reflow_lightning.{home}")) is not None:
        return sorted(getattr(module, registry))
    sources = (file.read_text() for file in files("reflow_lightning").joinpath(folder).iterdir() if file.is_file())
    return sorted(name for text in sources for name in re.findall(rf'^register_{kind}\("(\w+)"', text, re.MULTILINE))
