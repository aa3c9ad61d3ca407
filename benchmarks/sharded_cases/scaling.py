"""Seconds of ranking and masking, by the number of weights and of processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import nn

from reflow_lightning import prune
from reflow_lightning.signal.figures import SERIES, new_figure, styled
from sharded_cases.group import sharded_layers, together

SPARSITY, WIDTH = 0.9, 2048
LAYERS = (1, 4, 16, 64)
"""Of 4.2 million weights each."""


def seconds() -> dict[str, Any]:
    """The least of three runs for each size, after one that counts for nothing; on the process that takes longest."""
    return {str(layers * WIDTH**2): min(_once(layers) for _ in range(4)) for layers in LAYERS}


def _once(layers: int) -> float:
    torch.manual_seed(0)
    model = sharded_layers([nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(layers)])
    dist.barrier()
    start = time.perf_counter()
    masks = prune(model, SPARSITY)
    taken = torch.tensor(time.perf_counter() - start)
    dist.all_reduce(taken, dist.ReduceOp.MAX)
    assert abs(masks.sparsity - SPARSITY) < 1e-6
    return float(taken)


def rows(world: int) -> dict[str, Any]:
    """A row of seconds for so many processes."""
    found = together(world, seconds)[0]
    return {"rows": [{"processes": world, **{f"{int(n) / 1e6:.0f} M": f"{s:.3f}" for n, s in found.items()}}]}


@styled
def plot(rows: Sequence[dict[str, Any]]) -> Figure:
    """A line for each number of processes."""
    figure = new_figure(6.5, 4.2)
    axes = figure.add_subplot()
    for row, style in zip(rows, SERIES, strict=False):
        times = [float(value) for name, value in row.items() if name != "processes"]
        sizes = [layers * WIDTH**2 for layers in LAYERS]
        plural = "" if row["processes"] == 1 else "es"
        axes.loglog(sizes, times, label=f"{row['processes']} process{plural}", **style)
    axes.legend()
    axes.set(xlabel="weights (bfloat16)", ylabel="seconds", title="Rank and mask under fully_shard, one thread each")
    return figure
