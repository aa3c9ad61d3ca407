"""Three processes that prune together, of which one fails or is killed."""

from __future__ import annotations

import os
import signal
import socket
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from faults_event import BoomError, everything
from faults_outcome import Outcome, differences, start
from faults_training import BATCHES, MIN_KEPT, SPARSITY, Batches, Classifier
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from reflow_lightning import Reflow
from reflow_lightning.running.sharding import reshard

PROCESSES = 3
PATIENCE = 60.0  # seconds after which a process counts as hanging


def raise_on_one(times: int, folder: Path, chance: Random) -> Outcome:
    """The forward pass raises on one process, at each pass of the event, each process in turn."""
    return _together(times, sharded=False)


def raise_on_one_sharded(times: int, folder: Path, chance: Random) -> Outcome:
    """The same with parameters that are spread over the processes."""
    return _together(times, sharded=True)


def kill_one(times: int, folder: Path, chance: Random) -> Outcome:
    """SIGKILL on one process in the event: the others end with an error soon."""
    outcome = Outcome()
    for _ in range(times):
        victim, port = chance.randrange(PROCESSES), _free_port()
        started = [start(_slowly, rank, port) for rank in range(PROCESSES)]
        for _, pipe in started:
            pipe.recv()  # the event begins
        time.sleep(chance.uniform(0, 0.1))
        os.kill(started[victim][0].pid, signal.SIGKILL)  # type: ignore[arg-type]
        killed = time.monotonic()
        outcome.tried += 1
        for rank, (child, pipe) in enumerate(started):
            if rank != victim:
                _judge_survivor(outcome, pipe, killed)
            child.kill()
            child.join()
    return outcome


def _judge_survivor(outcome: Outcome, pipe: Any, killed: float) -> None:
    if not pipe.poll(PATIENCE):
        outcome.damage.append("a process hangs")
        return
    text, changed = pipe.recv()
    outcome.damage += [f"{path[1:]} differs" for path in changed]
    soon = time.monotonic() - killed < PATIENCE / 10
    outcome.seen[f"{text} on the others{', within 6 s' if soon else ''}"] += 1


def _together(times: int, *, sharded: bool) -> Outcome:
    port, outcome = _free_port(), Outcome()
    started = [start(_at_each_pass, rank, port, times, sharded) for rank in range(PROCESSES)]
    for child, pipe in started:
        if not pipe.poll(5 * PATIENCE):
            outcome.damage.append("a process hangs")
            child.kill()
            continue
        tried, damage = pipe.recv()
        outcome.damage += damage
        outcome.tried = tried
        outcome.seen["all processes raise, all networks as before"] = tried - len(outcome.damage)
        child.join()
    return outcome


def _at_each_pass(pipe: Any, rank: int, port: int, times: int, sharded: bool) -> None:
    """Let pass k fail on process k % 3, for each k, and see that all processes raise and nothing has changed."""
    _join(rank, port)
    damage: list[str] = []
    tried = 0
    for k in range(times):
        calls = count()

        def forward(model: nn.Module, batch: Any, k: int = k, calls: Iterator[int] = calls) -> Any:
            if next(calls) == k // PROCESSES and rank == k % PROCESSES:
                raise BoomError
            return model(batch[0])

        module, reflow = _model(k, sharded), _reflow(forward=forward)
        before = _everything(module)
        raised = ""
        try:
            reflow.apply(module, list(Batches())[rank::PROCESSES])
        except Exception as error:
            raised = type(error).__name__
        ended = torch.tensor(int(not raised))
        dist.all_reduce(ended, dist.ReduceOp.SUM)
        if ended == PROCESSES:
            break  # there were only k passes
        tried += 1
        expected = "BoomError" if rank == k % PROCESSES else "PeerError"
        damage += [f"{raised or 'nothing'} instead of {expected}"] * (raised != expected)
        damage += [f"{path[1:]} differs" for path in differences(_everything(module), before)]
    pipe.send((tried, damage))
    dist.destroy_process_group()


def _slowly(pipe: Any, rank: int, port: int) -> None:
    """One event with pauses in it."""
    _join(rank, port)
    module = _model(0, sharded=False)
    before = _everything(module)

    def forward(model: nn.Module, batch: Any) -> Any:
        time.sleep(0.02)
        return model(batch[0])

    pipe.send("begins")
    try:
        _reflow(forward=forward).apply(module, list(Batches())[rank::PROCESSES])
    except Exception as error:
        pipe.send((f"{type(error).__name__}", differences(_everything(module), before)))
    else:
        pipe.send(("the event was over before, no error", []))
    os._exit(0)  # nothing to say goodbye to


def _join(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    patience = timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES, timeout=patience)


def _model(seed: int, sharded: bool) -> nn.Module:
    torch.manual_seed(seed)
    module = Classifier()
    if sharded:
        fully_shard(module.net, mesh=init_device_mesh("cpu", (PROCESSES,)))
    return module


def _everything(module: nn.Module) -> dict[str, Any]:
    reshard(module)
    found = everything(module)
    found["values"] = {
        name: value.to_local().clone() if hasattr(value, "to_local") else value
        for name, value in found["values"].items()
    }
    return found


def _reflow(**arguments: Any) -> Reflow:
    return Reflow(SPARSITY, min_kept=MIN_KEPT, calibration_batches=-(-BATCHES // PROCESSES), **arguments)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
