"""What processes do together when they prune by data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from zoo.unreached import Parted, batches_of

from reflow_lightning.pruning import prune
from scenarios.gradients import make, split
from scenarios.processes import error_of, mine, named, on_the_last

CRITERIA = ("fisher", "taylor", "snip", "wanda", "woodfisher")
SIZES = (3, 3, 3, 1, 1, 1)


def parts() -> tuple[nn.Module, list[Any]]:
    model, batch = make("small_net")
    return model, split(batch, SIZES)


def _prune_by_each(batches: list[Any]) -> dict[str, Any]:
    found = {}
    for criterion in CRITERIA:
        model, _ = parts()
        masks = prune(model, 0.5, criterion=criterion, batches=batches, max_batches=len(batches))
        found[criterion] = {"masks": masks.state_dict(), "state": model.state_dict()}
    return found


def uneven_batches(_: Path) -> dict[str, Any]:
    return _prune_by_each(mine(parts()[1]))


def all_batches_on_the_last(_: Path) -> dict[str, Any]:
    return _prune_by_each(on_the_last(parts()[1]))


def a_batch_that_breaks_on_one(_: Path) -> dict[str, str]:
    raised = {}
    for criterion in CRITERIA:
        model, batches = parts()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        seen: list[int] = []

        def forward(module: nn.Module, batch: Any, seen: list[int] = seen) -> Any:
            seen.append(1)
            if dist.get_rank() == 1 and len(seen) == 2:
                raise ZeroDivisionError("the second call on rank 1")
            return module(batch[0])

        how = {"criterion": criterion, "batches": batches, "max_batches": 3, "forward": forward}
        raised[criterion] = error_of(prune, model, 0.5, **how)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    return raised


def no_batches_on_any(_: Path) -> None:
    prune(parts()[0], 0.5, criterion="fisher", batches=[], max_batches=0)


def a_part_that_one_process_reaches(_: Path) -> dict[str, Any]:
    """With the larger batches alone, which the last process has, and at last with smaller ones on all."""
    found = {}
    for criterion in CRITERIA:
        model = Parted("for some batches")
        how = {"criterion": criterion, "max_batches": 1}
        masks = prune(model, 0.5, batches=batches_of(4 if dist.get_rank() else 2), **how)
        error = error_of(prune, Parted("for some batches"), 0.5, batches=batches_of(2), **how)
        found[criterion] = {"masks": masks.state_dict(), "error": error}
    return found


SCENARIOS = named(
    uneven_batches,
    all_batches_on_the_last,
    a_batch_that_breaks_on_one,
    no_batches_on_any,
    a_part_that_one_process_reaches,
)
