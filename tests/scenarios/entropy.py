"""What processes do together when they measure how often rectifiers switch, and prune by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from reflow_lightning import prune
from reflow_lightning.signal import measure_entropy
from scenarios.functions import BATCHES, network
from scenarios.processes import error_of, mine, named, on_the_last


class Branching(nn.Module):
    """Which layers a batch reaches depends on its values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.a(x)) if x.sum() > 0 else torch.relu(self.b(x))
        return first.sum() + nn.functional.gelu(self.c(x)).sum()


BRANCHES = [sign * torch.rand(8, 3, generator=torch.Generator().manual_seed(i)) for i, sign in enumerate((-1, 1))]


def _measured(batches: list[Any]) -> dict[str, Any]:
    report = measure_entropy(network(), batches, max_batches=len(batches)).to_dict()
    masks = prune(network(), 0.5, allocation="entropy", batches=batches, max_batches=len(batches))
    return {"report": report, "masks": masks.state_dict()}


def uneven(_: Path) -> dict[str, Any]:
    return _measured(mine(BATCHES))


def all_on_the_last(_: Path) -> dict[str, Any]:
    return _measured(on_the_last(BATCHES))


def other_layers_on_each(_: Path) -> dict[str, Any]:
    return measure_entropy(Branching(), [BRANCHES[dist.get_rank()]], max_batches=1).to_dict()


def a_batch_that_breaks_on_one(_: Path) -> list[str]:
    def forward(model: nn.Module, batch: Any) -> Any:
        if dist.get_rank() == 1:
            raise ZeroDivisionError("on rank 1")
        return model(batch)

    return [
        error_of(measure_entropy, network(), mine(BATCHES), forward=forward),
        error_of(prune, network(), 0.5, allocation="entropy", batches=mine(BATCHES), forward=forward),
    ]


def no_batches_on_any(_: Path) -> None:
    measure_entropy(network(), [], max_batches=0)


def spread_over_processes(_: Path) -> dict[str, Any]:
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model)
    report = measure_entropy(model, mine(BATCHES), max_batches=len(mine(BATCHES))).to_dict()
    masks = prune(model, 0.5, allocation="entropy", batches=mine(BATCHES), max_batches=len(mine(BATCHES)))
    return {"report": report, "masks": masks.state_dict()}


SCENARIOS = named(
    uneven,
    all_on_the_last,
    other_layers_on_each,
    a_batch_that_breaks_on_one,
    no_batches_on_any,
    spread_over_processes,
)
