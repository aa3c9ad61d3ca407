"""What the processes of the distributed tests do; a module of its own, since a spawned process imports it by name."""

from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Scenario = Callable[[Path], Any]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _work(rank: int, scenarios: dict[str, Scenario], world_size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    names |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in names.items()})
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))  # a process that waits for ever ends the test
    for name, scenario in scenarios.items():
        torch.manual_seed(rank)  # processes differ in their random state
        try:
            result = {"value": scenario(Path(folder))}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        torch.save(result, f"{folder}/{name}.{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


def run(scenarios: dict[str, Scenario], world_size: int, folder: Path) -> None:
    """Run the scenarios, one after the other, in processes that run together; each result lands in the folder."""
    mp.spawn(_work, (scenarios, world_size, free_port(), str(folder)), nprocs=world_size)


def results(name: str, folder: Path) -> list[Any]:
    """What each rank returned, in order; a scenario that raised is an error here."""
    found = outcomes(name, folder)
    for outcome in found:
        assert "error" not in outcome, outcome["trace"]
    return [outcome["value"] for outcome in found]


def outcomes(name: str, folder: Path) -> list[dict[str, Any]]:
    """What each rank returned or raised, in order."""
    files = sorted(folder.glob(f"{name}.*.pt"), key=lambda file: int(file.suffixes[-2][1:]))
    return [torch.load(file, weights_only=True) for file in files]
