"""What users' criteria, allocations and repairs return, or write, is wrong, and nobody says so."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from field_cases.trial import Kind
from reflow_lightning import Pruner
from reflow_lightning.calibration import Calibration


class Found:
    """Finds something on data."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def __repr__(self) -> str:
        return "mine"

    def estimate(self, *_: Any) -> Any:
        """What it finds."""
        return self.found


def _fills(model: nn.Module, *_: Any) -> Calibration:
    for parameter in model.parameters():
        parameter.fill_(1.0)
    return Calibration((), {}, 1, 0.0)


def _called(given: Any) -> Any:
    return type("Mine", (), {"__call__": lambda _, *a: given(*a) if callable(given) else given, "__repr__": _name})()


def _name(_: Any) -> str:
    return "mine"


OBJECTS: dict[str, Callable[[], dict[str, Any]]] = {
    "a criterion gives None": lambda: {"criterion": _called(None)},
    "a criterion gives a list": lambda: {"criterion": _called([1.0])},
    "a criterion gives another shape": lambda: {"criterion": _called(lambda _, weight: weight[:1])},
    "a criterion finds None": lambda: {"criterion": Found(None)},
    "an allocation gives None": lambda: {"allocation": _called(None)},
    "an allocation gives a list": lambda: {"allocation": _called([8])},
    "an allocation gives shares": lambda: {"allocation": _called(lambda scores, *_: dict.fromkeys(scores, 0.5))},
    "an allocation finds None": lambda: {"allocation": Found(None)},
    "a repair gives None": lambda: {"repair": _called(None)},
    "a repair gives a model": lambda: {"repair": _called(lambda model, *_: model)},
    "a repair fills zeros": lambda: {"repair": _called(_fills)},
}


def _silent(options: Callable[[], dict[str, Any]]) -> str:
    model, pruner = nn.Linear(4, 4), Pruner(0.5, **options(), calibration_batches=1)
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            pruner.apply(model, [torch.ones(2, 4)])
    except (ValueError, TypeError) as error:
        return "" if "mine" in str(error) else f"not named: {error}"
    assert pruner.masks is not None
    zero = not model.weight[~pruner.masks["weight"]].any()
    named = any("mine" in str(warning.message) for warning in found)
    return "" if zero and named else f"zeros kept: {zero}, named: {named}"


KINDS = [
    Kind(
        "wrong_types",
        "an object of the user's returns the wrong type, or fills pruned weights, and no error or warning names it",
        "criteria, allocations and repairs that return None, a list, another shape, or fill zeros",
        {name: functools.partial(_silent, options) for name, options in OBJECTS.items()},
    )
]
