"""What processes do together with statistics, and with metrics made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from reflow_lightning.callbacks.metrics import as_metric
from reflow_lightning.running import gathered
from reflow_lightning.running.gathered import gather_tensors
from reflow_lightning.signal import CenteredCosine, ClassShare, LinearCKA, Moments, Signs, Statistic
from reflow_lightning.signal.neurons import signs
from scenarios.processes import mine, named, on_the_last

PARTS = [torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)]
LABELS = [torch.arange(5) % (2 + i) for i in range(4)]  # each part has a class of its own

Taken = tuple[torch.Tensor, ...]
TAKEN: dict[type[Statistic[Any]], list[Taken]] = {
    Moments: [(part,) for part in PARTS],
    Signs: [(signs(part),) for part in PARTS],
    CenteredCosine: [(part, part.exp()) for part in PARTS],
    LinearCKA: [(part, part.exp()) for part in PARTS],
    ClassShare: list(zip(PARTS, LABELS, strict=True)),
}


def _plain(found: Any) -> list[torch.Tensor]:
    return list(found) if isinstance(found, tuple) else [found]


def _with_parts(share: Callable[[list[Taken]], list[Taken]]) -> dict[str, list[torch.Tensor]]:
    found = {}
    for kind, taken in TAKEN.items():
        statistic, metric = kind(3), as_metric(kind(3))
        for part in share(taken):
            statistic.update(*part)
            metric.update(*part)
        found[kind.__name__] = _plain(statistic.compute())
        found[f"{kind.__name__} alone"] = _plain(statistic.value())
        found[f"metric of {kind.__name__}"] = _plain(metric.compute())
    return found


def statistics_of_some_each(_: Path) -> dict[str, list[torch.Tensor]]:
    return _with_parts(mine)


def statistics_of_all_on_the_last(_: Path) -> dict[str, list[torch.Tensor]]:
    return _with_parts(on_the_last)


def channels_that_differ(_: Path) -> str:
    try:
        Moments(2 + dist.get_rank()).compute()
    except ValueError as error:
        return str(error)
    return "nothing"


def rows_that_differ(_: Path) -> list[list[float]]:
    rank = dist.get_rank()
    return [found.flatten().tolist() for found in gather_tensors([torch.full((2 * rank, 1), float(rank))])[0]]


def at_rank(rank: int) -> list[torch.Tensor]:
    """Tensors of several types; some have as many rows as the rank, or none."""
    return [
        torch.full((3, 2), rank + 0.5, dtype=torch.float64),
        torch.full((rank,), rank, dtype=torch.int64),
        torch.full((2, 1), rank + 0.25),
        torch.zeros(0, 4),
        torch.arange(5 * rank, dtype=torch.float64).view(rank, 5),
        torch.tensor([True, rank == 1]),
    ]


def tensors_of_many_kinds(_: Path) -> dict[str, list[list[torch.Tensor]]]:
    """Gathered at once, and in parcels that hold a tensor or two."""
    found = {"at once": gather_tensors(at_rank(dist.get_rank()))}
    with mock.patch.object(gathered, "_PARCEL", 20):
        return found | {"in parcels": gather_tensors(at_rank(dist.get_rank()))}


MERGING = named(statistics_of_some_each, statistics_of_all_on_the_last)
SCENARIOS = {**MERGING, **named(channels_that_differ, rows_that_differ, tensors_of_many_kinds)}
