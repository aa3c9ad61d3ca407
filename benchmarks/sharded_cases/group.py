"""Some processes that do the same thing together, and what each has found."""

from __future__ import annotations

import ctypes
import gc
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from reflow_lightning.running.spreading import spread

Work = Callable[..., dict[str, Any]]

_MMAP_THRESHOLD = -3  # larger pieces go back to the system when they are freed, so that memory is what is held


def _work(rank: int, world: int, folder: str, work: Work, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    ctypes.CDLL("libc.so.6").mallopt(_MMAP_THRESHOLD, 64 << 10)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(work(*arguments), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def together(world: int, work: Work, *arguments: Any) -> list[dict[str, Any]]:
    """What the function returns in each of so many processes, which form a group."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, (world, folder, work, arguments), nprocs=world)
        return [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(world)]


def sharded(model: nn.Module) -> Any:
    """The network spread over all processes, block by block."""
    spread(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


def sharded_layers(layers: list[nn.Module]) -> Any:
    """Layers one after the other, each a unit of its own."""
    model: Any = nn.Sequential(*layers)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*model, model):
        fully_shard(layer, mesh=mesh)
    return model


class Peak:
    """The most memory that this process holds in a block, beside what it held before; Linux only."""

    bytes = 0

    def __enter__(self) -> Peak:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back to the system, and counts anew
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _status("VmHWM") - self._before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
