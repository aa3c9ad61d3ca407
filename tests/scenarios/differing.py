"""Processes that differ: one is slower, has nothing to do, ends in the middle of an event, or trains for itself."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import Module, loader, trainer
from torch import nn

from reflow_lightning import OneShot, Reflow, SignalMonitor
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.running.sharding import reshard
from reflow_lightning.running.world import alone, world_size
from scenarios.processes import error_of, free_port, mine, named, values
from scenarios.sharded_repairs import batches, network, spread


def one_is_slower(_: Path) -> dict[str, Any]:
    """It sleeps in each forward pass, and has all batches but one."""
    model = spread(network())

    def forward(network: nn.Module, batch: Any) -> Any:
        time.sleep(0.05 * dist.get_rank())
        return network(batch[0])

    given = batches()[1:] if dist.get_rank() else batches()[:1]
    pruner = Pruner(0.7, repair="reconstruct", calibration_batches=12, forward=forward)
    pruner.apply(model, given)
    assert pruner.masks is not None
    return {"masks": pruner.masks.state_dict(), "state": values(model)}


def trainings_for_themselves(folder: Path) -> dict[str, Any]:
    """The first process trains longer than the others, which end before its pruning; the last one does nothing."""
    if dist.get_rank() == dist.get_world_size() - 1:
        return {}
    torch.manual_seed(0)
    rounds = 1 if dist.get_rank() else 3
    module, callback = Module(), Reflow(0.5, schedule=OneShot(epoch=rounds - 1), repair="auto")
    trainer(callback, SignalMonitor(2), max_epochs=rounds, strategy="auto", devices=1).fit(module, loader())
    failing = Reflow(0.5, schedule=OneShot(step=1), forward=lambda module, batch: 1 / 0)
    raised = error_of(trainer(failing, devices=1).fit, Module(), loader())
    return {"sparsity": callback.masks.sparsity, "steps": [e.step for e in callback.events], "raised": raised}


def functions_for_themselves(_: Path) -> list[int]:
    """The second process calls nothing."""
    with alone():
        sizes = [world_size()]
        if dist.get_rank() == 0:
            Pruner(0.5, repair="reconstruct", calibration_batches=2).apply(network(), batches(2))
    return [*sizes, world_size()]


SCENARIOS = named(one_is_slower, trainings_for_themselves, functions_for_themselves)


def parts(model: nn.Module) -> dict[str, torch.Tensor]:
    """What this process holds, of which no other need be asked."""
    reshard(model)
    return {name: parameter.detach().to_local().clone() for name, parameter in model.named_parameters()}


def _work(rank: int, world: int, dies: int, hangs: bool, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    init = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init, rank=rank, world_size=world, timeout=timedelta(seconds=8))
    model, calls = spread(network()), 0
    before = parts(model)

    def forward(network: nn.Module, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if rank == dies and calls == 3:
            if hangs:
                time.sleep(40)
            os._exit(0)
        return network(batch[0])

    pruner, start = Pruner(0.7, repair="reconstruct", calibration_batches=6, forward=forward), time.monotonic()
    try:
        pruner.apply(model, mine(batches()))
        raised = "nothing"
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    result = {"raised": raised, "seconds": time.monotonic() - start, "parts": parts(model), "before": before}
    torch.save(result, f"{folder}/ended.{rank}.pt")
    os._exit(0)  # the group can't be left in the usual way any more


def run_until_one_ends(folder: Path, *, world: int, dies: int, hangs: bool = False) -> list[dict[str, Any]]:
    """What the others found."""
    arguments = (world, dies, hangs, free_port(), str(folder))
    context = mp.start_processes(_work, arguments, nprocs=world, join=False, start_method="forkserver")
    others = [rank for rank in range(world) if rank != dies]
    for rank in others:
        context.processes[rank].join(60)
    for process in context.processes:
        process.kill()
    return [torch.load(f"{folder}/ended.{rank}.pt", weights_only=True) for rank in others]
