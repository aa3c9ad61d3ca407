"""How fast a machine runs a network and solves the equations of its layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.least_squares import ridge_at_once
from reflow_lightning.layers import find_layers
from reflow_lightning.running.batches import Batches, device_of
from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.world import world_size

AUTO_BATCHES = 20
"""So many are expected where the number is ``"auto"``."""

_WIDTH, _ROWS = 256, 8
"""Systems of such a size are solved to learn how fast that is."""

_PRODUCTS, _INVERSES = 64, 8
"""Of a layer's Gram matrix, while *reselect* chooses its zeros; see `reflow_lightning.calibration.reselecting`."""


class Pace(NamedTuple):
    """How fast a machine is.

    Attributes:
        forward: Seconds in which the network and the dense one run on a batch.
        reading: Seconds to read a batch.
        batches: Number of batches.
        solving: Seconds to solve the equations of every row of every layer, if it kept all of its weights.
        choosing: Seconds to choose other zeros for all layers.
    """

    forward: float
    reading: float
    batches: int
    solving: float = 0.0
    choosing: float = 0.0


@torch.no_grad()
def pace_of(model: nn.Module, batches: Iterable[Any], forward: Forward) -> Pace:
    """The median of three passes over the first batch, after one that warms up, and a pass through the loader.

    Args:
        model: The model.
        batches: They are counted, and the first is run.
        forward: Runs a network on a batch.

    Example:
        >>> pace_of(nn.Linear(4, 4), [torch.ones(2, 4)] * 3, lambda model, batch: model(batch)).batches
        3
    """
    device, passes, count = device_of(model), [0.0], 0
    most = AUTO_BATCHES if isinstance(batches, Batches) and batches.auto else None
    begun = _now(device)
    with only_training(model, ()):
        for count, batch in enumerate(islice(batches, most), start=1):
            if count == 1:
                passes = [_seconds(partial(forward, model, batch), device) for _ in range(4)]
    reading = (_now(device) - begun - sum(passes)) / max(1, count)
    return Pace(2 * median(passes[1:] or passes), reading, count, *_of_equations(model, device))


def _of_equations(model: nn.Module, device: torch.device) -> tuple[float, float]:
    """Seconds to solve the equations of all layers, which processes share, and to choose their zeros."""
    solving, choosing = 0.0, 0.0  # multiply-adds
    for layer in find_layers(model).known.values():
        for affine in (layer.maps[index] for stage in layer.stages for index in stage.maps):
            inputs = float(sum(affine.columns))
            solving += affine.channels * inputs**3 / 6
            choosing += _PRODUCTS * affine.channels * inputs**2 + _INVERSES * affine.groups * inputs**3
    exact = exact_device(torch.empty(0, device=device))
    return solving * _of_a_system(exact) / world_size(), choosing * _of_a_product(exact)


def _of_a_system(device: torch.device) -> float:
    """Seconds for a multiply-add of a system of equations in float64."""
    values = torch.arange(2.0 * _WIDTH**2, dtype=torch.float64, device=device).sin().view(-1, _WIDTH)
    gram = (values.T @ values)[None]
    kept = torch.ones(_ROWS, _WIDTH, dtype=torch.bool, device=device).tril(_WIDTH - 2)  # no two masks are alike
    groups = torch.zeros(_ROWS, dtype=torch.long, device=device)
    seconds = _least(lambda: ridge_at_once(gram, groups, values[:_ROWS], kept, strength=0.1), device)
    return seconds / (_ROWS * _WIDTH**3 / 6)


def _of_a_product(device: torch.device) -> float:
    """Seconds for a multiply-add of a product in float32."""
    values = torch.arange(4.0 * _WIDTH**2, device=device).sin().view(2 * _WIDTH, -1)
    return _least(lambda: values @ values, device) / len(values) ** 3


def _least(run: Callable[[], Tensor], device: torch.device) -> float:
    return min(_seconds(run, device) for _ in range(3))


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    start = _now(device)
    run()
    return _now(device) - start


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
