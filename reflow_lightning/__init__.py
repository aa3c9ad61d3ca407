"""Prune a PyTorch network in one line of Lightning, and bring its signal back in seconds.

Names and rooms are imported when they are asked for: Lightning takes seconds, and even torch is not always needed.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reflow_lightning.calibration import calibrate
    from reflow_lightning.callbacks.monitor import SignalMonitor
    from reflow_lightning.callbacks.reflow import Reflow
    from reflow_lightning.collapse import collapse
    from reflow_lightning.events.pruner import Pruner
    from reflow_lightning.pruning import Masks, prune
    from reflow_lightning.running.attention_mask import WithAttentionMask
    from reflow_lightning.schedules import Gradual, Iterative, OneShot
    from reflow_lightning.search import find_sparsity
    from reflow_lightning.signal import measure_signal

    __version__: str

__all__ = [
    "Gradual",
    "Iterative",
    "Masks",
    "OneShot",
    "Pruner",
    "Reflow",
    "SignalMonitor",
    "WithAttentionMask",
    "calibrate",
    "collapse",
    "find_sparsity",
    "measure_signal",
    "prune",
]

_HOMES = {
    "Gradual": "schedules",
    "Iterative": "schedules",
    "Masks": "pruning",
    "OneShot": "schedules",
    "Pruner": "events.pruner",
    "Reflow": "callbacks.reflow",
    "SignalMonitor": "callbacks.monitor",
    "WithAttentionMask": "running.attention_mask",
    "calibrate": "calibration",
    "collapse": "collapse",
    "find_sparsity": "search",
    "measure_signal": "signal",
    "prune": "pruning",
}
_ROOMS = (
    *("running", "layers", "signal", "pruning", "calibration", "schedules", "rounds", "search", "cost", "events"),
    *("callbacks", "experiments"),
)


class _Package(ModuleType):
    """The package, in which `collapse` is the function, though a room is called so too.

    Python sets each room that it imports as an attribute of the package; that is refused for the name of a function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (__name__,)  # cloudpickle knows modules by their type, and this is not quite it


sys.modules[__name__].__class__ = _Package

if not TYPE_CHECKING:  # a type checker that saw it would believe in any name

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        elif name in _ROOMS:
            return import_module(f"{__name__}.{name}")
        elif name == "__version__":
            found = _version()
        else:
            from reflow_lightning.running.names import nearest

            raise AttributeError(f"module '{__name__}' has no attribute '{name}'{nearest(name, (*__all__, *_ROOMS))}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("reflow-lightning")
    except PackageNotFoundError:  # the sources were put on the path, and nothing is installed
        return "0+unknown"
