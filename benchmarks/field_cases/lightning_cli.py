"""Callbacks that can't be written in the YAML of a LightningCLI."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback

from field_cases.trial import Kind

SCHEDULES = ("OneShot", "Gradual", "Iterative")
PRUNING, CALIBRATION = "reflow_lightning.pruning", "reflow_lightning.calibration"


def made(path: str, **arguments: Any) -> dict[str, Any]:
    """An object as YAML has it."""
    return {"class_path": path, "init_args": arguments}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        kind: functools.partial(made, f"{PRUNING}.{kind}")
        for kind in ("Magnitude", "Random", "ColumnSum", "Fisher", "Taylor", "Snip", "Wanda", "WoodFisher", "PerOutput")
    },
    "PerOutput of Wanda": lambda: made(f"{PRUNING}.PerOutput", criterion=made(f"{PRUNING}.Wanda")),
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    **{f"criterion {name}": {"criterion": case()} for name, case in CASES.items()},
    "allocation by name": {"allocation": "erk"},
    "allocation": {"allocation": made(f"{PRUNING}.EntropyBudget", zeros="off")},
    "repair": {"repair": made(f"{CALIBRATION}.Reconstruct", ridge=0.1)},
    "repairs": {"repair": ["batchnorm", made(f"{CALIBRATION}.Moments")]},
    **{
        f"schedule {name}": {"schedule": made(f"reflow_lightning.{name}")}
        for name in ("OneShot", "Gradual", "Iterative")
    },
    "monitor": {"monitor": made("reflow_lightning.SignalMonitor", every_n_steps=3)},
    "calibration data": {"calibration_data": made("lightning.pytorch.demos.boring_classes.BoringDataModule")},
    "a forward pass": {"forward": "reflow_lightning.running.forward.default_forward"},
    "the rest": {"calibration_batches": "auto", "include": ["*"], "exclude": "a.*", "pattern": "2:4", "seed": 1},
}


def _lost(callback: str, arguments: dict[str, Any]) -> str:
    """Why the callback is not made of a configuration, or of what is printed of that."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=Callback)
    parsed = parser.parse_object({"callback": made(callback, **arguments)})
    for config in (parsed, parser.parse_string(parser.dump(parsed))):
        parser.instantiate_classes(config)
    return ""


def _peer() -> str:
    """The first argument of ModelPruning, by name."""
    try:
        return _lost("lightning.pytorch.callbacks.ModelPruning", {"pruning_fn": "l1_unstructured"})
    except Exception as error:
        return f"{type(error).__name__} when it is read again"


READS = all(map(importlib.util.find_spec, ("jsonargparse", "typeshed_client")))  # both are in the extra "test"
TRIALS = {
    name: functools.partial(_lost, "reflow_lightning.Reflow", {"sparsity": 0.9, **arguments})
    for name, arguments in ARGUMENTS.items()
} | {"the monitor alone": functools.partial(_lost, "reflow_lightning.SignalMonitor", {"every_n_steps": 5})}

KINDS = [
    Kind(
        "lightning_cli",
        "a callback, or one of its arguments, can't be written in the YAML of a LightningCLI",
        "each criterion, allocations, repairs and lists of them, schedules, monitors, data, functions; printed and "
        "read again",
        TRIALS if READS else {},
        peer=_peer,
    )
]
