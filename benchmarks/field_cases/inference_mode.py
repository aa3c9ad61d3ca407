"""Called within `torch.inference_mode`, as in each validation of Lightning, or with a model that was made there."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from field_cases.trial import Kind, Trial
from reflow_lightning import Masks, Pruner, calibrate, collapse, find_sparsity, measure_signal, prune
from reflow_lightning.calibration import check_drift
from reflow_lightning.cost import compare, measure_cost, measure_latency, measure_memory, save_program
from reflow_lightning.signal import measure_entropy

Batch = tuple[Tensor, Tensor]
Act = Callable[[nn.Module, list[Batch]], Any]
"""Does something with a model and batches, and returns what can be compared as text."""

_CRITERIA = ("magnitude", "random", "fisher", "taylor", "snip", "wanda", "woodfisher")
_REPAIRS = ("auto", "batchnorm", "moments", "reconstruct", "none")


def _net() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(128, 4)]
    return nn.Sequential(*layers)


def _batches() -> list[Batch]:
    torch.manual_seed(0)
    return [(torch.randn(32, 3, 6, 6), torch.randint(4, (32,))) for _ in range(2)]


def _prune(criterion: str, model: nn.Module, batches: list[Batch]) -> Masks:
    return prune(model, 0.5, criterion=criterion, batches=batches, max_batches=2)


def _repair(repair: str, model: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    dense = copy.deepcopy(model)
    prune(model, 0.5)
    return calibrate(model, batches, repair=repair, reference=dense, max_batches=2).repaired


def _undone(model: nn.Module, batches: list[Batch]) -> None:
    prune(model, 0.5)
    calibrate(model, batches, max_batches=2).undo()


def _search(model: nn.Module, batches: list[Batch]) -> float:
    return find_sparsity(model, batches, lambda network: 1.0, max_drop=0.5, max_batches=2).sparsity


def _event(model: nn.Module, batches: list[Batch]) -> float:
    return Pruner(0.5, calibration_batches=2).apply(model, batches).sparsity


def _masks(model: nn.Module, batches: list[Batch]) -> Masks:
    torch.save(prune(copy.deepcopy(model), 0.5).state_dict(), file := io.BytesIO())
    file.seek(0)
    masks = Masks.from_state_dict(torch.load(file)).to("cpu")
    masks.apply(model)
    return masks


def _collapse(model: nn.Module, batches: list[Batch]) -> nn.Module:
    prune(model, 0.9)
    return collapse(model, batches[0][0], batches=batches)


def _costs(model: nn.Module, batches: list[Batch]) -> Any:
    x = batches[0][0]
    measure_latency(model, model, x, warmup=1, rounds=1)
    with TemporaryDirectory() as folder:
        save_program(model.eval(), x, Path(folder) / "program.pt2")
    return measure_cost(model, x), measure_memory(model, x), compare(model, model, x, rounds=1).largest_difference


_ACTS: dict[str, Act] = {
    **{f"prune {criterion}": partial(_prune, criterion) for criterion in _CRITERIA},
    **{f"calibrate {repair}": partial(_repair, repair) for repair in _REPAIRS},
    "undo": _undone,
    "find_sparsity": _search,
    "Pruner.apply": _event,
    "masks": _masks,
    "collapse": _collapse,
    "cost": _costs,
    "measure_signal": lambda model, batches: measure_signal(model, batches, max_batches=2).rows,
    "measure_entropy": lambda model, batches: measure_entropy(model, batches, max_batches=2).table(),
    "check_drift": lambda model, batches: check_drift(model, batches, max_batches=2).layers,
}


def _train(model: nn.Module, batches: list[Batch]) -> None:
    model.train().requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x, _ in batches:
        model(x.clone()).square().mean().backward()
        optimizer.step()


def _called_within(mode: Callable[[], AbstractContextManager[Any]], act: Act) -> str:
    """Whether the result is another one than outside, or training fails afterwards."""
    expected, reference = act(other := _net(), _batches()), other.state_dict()
    model = _net()
    with mode():
        found = act(model, _batches())
    if str(found) != str(expected):
        return "another result than outside"
    if any(not torch.equal(value, reference[name]) for name, value in model.state_dict().items()):
        return "other values than outside"
    if isinstance(found, Masks) and any(mask.is_inference() for mask in found.values()):
        return "masks that were made in inference mode"
    for trained in (model, found):
        if isinstance(trained, nn.Module):
            _train(trained, _batches())
    return ""


def _made_within(act: Act) -> str:
    """Whether something else is done with a model, and batches, that were made in inference mode."""
    with torch.inference_mode():
        model, batches = _net(), _batches()
    found, expected = act(model, batches), act(other := _net(), _batches())
    if any(not torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items()):
        return "other values than in an ordinary model"
    return "" if str(found) == str(expected) else "another result than of an ordinary model"


def _trials() -> dict[str, Trial]:
    modes = {"inference mode": torch.inference_mode, "no_grad": torch.no_grad}
    within: dict[str, Trial] = {
        f"{name}, in {mode}": partial(_called_within, enter, act)
        for name, act in _ACTS.items()
        for mode, enter in modes.items()
    }
    return within | {f"{name}, of a model made there": partial(_made_within, act) for name, act in _ACTS.items()}


KINDS = [
    Kind(
        "inference mode",
        "something fails that is called within torch.inference_mode, or with a model made there; then or in training",
        "every public function, each within inference_mode, within no_grad, and with a model of inference tensors",
        _trials(),
    )
]
