"""Several processes that run the same functions together, and what those functions share."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

IMPORTED = ["reflow_lightning.experiments.experiment", "sklearn.datasets", "torch.utils.tensorboard"]
"""What a process of a test finds imported when it starts."""

Scenario = Callable[[Path], Any]

needs_processes = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
]
"""The marks of tests that start several processes."""


def named(*scenarios: Scenario) -> dict[str, Scenario]:
    """The scenarios by their names, as `run` takes them."""
    return {scenario.__name__: scenario for scenario in scenarios}


def mine(batches: list[Any]) -> list[Any]:
    """The batches of this process, where every process takes one in turn."""
    return batches[dist.get_rank() :: dist.get_world_size()]


def on_the_last(batches: list[Any]) -> list[Any]:
    """All batches on the last process, and none on the others."""
    return batches if dist.get_rank() == dist.get_world_size() - 1 else []


def failing_on_the_second(model: nn.Module, batch: Any, seen: list[int]) -> Any:
    """A forward pass that fails in the fourth call of the process of rank 1; `seen` counts the calls."""
    seen.append(1)
    if dist.get_rank() == 1 and len(seen) == 4:
        raise ZeroDivisionError("the fourth call on rank 1")
    return model(batch[0])


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the model's state; what is spread over processes is put together."""
    return {name: whole(value) for name, value in model.state_dict().items()}


def whole(value: Any) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value.clone()


def error_of(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The error that the call raises, with its type, or ``"nothing"``."""
    try:
        call(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


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
    """Run the scenarios, one after the other, in processes that run together; each result lands in the folder.

    The processes are copies of one that has imported everything and done nothing else.
    """
    multiprocessing.set_forkserver_preload(IMPORTED)
    arguments = (scenarios, world_size, free_port(), str(folder))
    mp.start_processes(_work, arguments, nprocs=world_size, start_method="forkserver")


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
