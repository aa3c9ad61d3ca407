"""What processes that search together do in the tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers import selected_size, zeros
from torch import nn

from reflow_lightning import find_sparsity
from reflow_lightning.search import Search
from scenarios import units
from scenarios.functions import BATCHES, network
from scenarios.processes import error_of, mine, named

QUICK: dict[str, Any] = {"max_batches": 4, "coarse": (0.5, 0.9), "tolerance": 0.05, "progress": False}


def falling(model: nn.Module) -> float:
    """Falls with the sparsity, on rank 1 twice as fast as on rank 0, so that alone they would part."""
    return 1 - (1 + dist.get_rank()) * zeros(model) / selected_size(model)


def _searched(model: nn.Module, evaluate: Callable[[nn.Module], Any]) -> Search:
    return find_sparsity(model, mine(BATCHES), evaluate, max_drop=0.9, **QUICK)


def scores_that_differ(_: Path) -> dict[str, Any]:
    model = network()
    search = _searched(model, falling)
    trials = [(trial.sparsity, trial.score) for trial in search.trials]
    return {"sparsity": search.sparsity, "trials": trials, "state": dict(model.state_dict())}


def _failing(evaluate: Callable[[nn.Module], Any]) -> dict[str, Any]:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []

    def third_on_rank_one(model: nn.Module) -> Any:
        calls.append(1)
        return evaluate(model) if dist.get_rank() == 1 and len(calls) == 3 else falling(model)

    raised = error_of(_searched, model, third_on_rank_one)
    same = all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    return {"raised": raised, "same": same}


def an_evaluation_that_breaks(_: Path) -> dict[str, Any]:
    def breaks(model: nn.Module) -> float:
        raise ZeroDivisionError("in evaluate")

    return _failing(breaks)


def a_score_that_is_nan(_: Path) -> dict[str, Any]:
    return _failing(lambda model: math.nan)


def other_weights(_: Path) -> str:
    model = network()
    with torch.no_grad():
        model[4].weight.mul_(1 + dist.get_rank())
    try:
        _searched(model, falling)
    except ValueError as error:
        return str(error)
    return "nothing"


@torch.no_grad()
def likeness(model: nn.Module) -> float:
    """How like the outputs are to the dense network's."""
    [x] = units.batches(1)
    return float(nn.functional.cosine_similarity(model(x), units.deep()(x)).mean())


def searched_by_units(model: nn.Module, batches: list[Any], **how: Any) -> dict[str, Any]:
    search = find_sparsity(model, batches, likeness, **{"max_drop": 0.2, **QUICK, **how})
    trials = [(trial.sparsity, trial.score) for trial in search.trials]
    return {"found": (search.sparsity, search.score), "trials": trials, "now": likeness(model), "masks": search.masks}


WAYS: dict[str, dict[str, Any]] = {
    "reconstruct": {"repair": "reconstruct"},
    "none, by wanda": {"repair": "none", "criterion": "wanda", "steps": 2},
    "nothing within": {"max_drop": 0.0, "repair": "none"},
}


def spread_by_fully_shard(_: Path) -> dict[str, Any]:
    found = {}
    for name, how in WAYS.items():
        model = units.spread()
        found[name] = searched_by_units(model, mine(units.batches()), **how)
        found[name] |= {"masks": found[name]["masks"].state_dict()}
    model = units.spread()
    calls: list[int] = []

    def third_on_rank_one(model: nn.Module) -> float:
        calls.append(1)
        score = likeness(model)
        return 1 / 0 if dist.get_rank() == 1 and len(calls) == 3 else score

    raised = error_of(find_sparsity, model, mine(units.batches()), third_on_rank_one, **QUICK)
    return {"found": found, "raised": raised, "after": likeness(model)}


SEARCHES = named(
    spread_by_fully_shard, scores_that_differ, an_evaluation_that_breaks, a_score_that_is_nan, other_weights
)
