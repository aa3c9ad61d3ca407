"""What several processes gain, and what they send: calibration shared out, and ranking of weights spread over them.

    python benchmarks/processes.py

Each process has one thread. Writes ``docs/processes.md``; exits with 1 if processes do not agree with one.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import tempfile
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tables import ROOT, Row, environment, markdown
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from reflow_lightning import calibrate, prune
from reflow_lightning.experiments.models.resnet import ResNet

SEED, BATCHES, SIZE, REPEATS = 0, 48, 128, 3

PAGE = """# Several processes

**What it shows.** Several processes share the work of a calibration, and get the statistics that one
process gets.

One ResNet-20 is pruned to 0.9 and calibrated on {batches} batches of {size} images of CIFAR-10's shape; their values
are random, since what is measured is time and agreement, not accuracy. Process r of R takes the batches r, r + R, ...;
the statistics are merged once, at the end. *Differs by* is the largest difference of a BatchNorm statistic from the one
of a single process, relative to the largest of its layer. Where processes share the weights (`fully_shard`),
*sent* is what a process hands to any collective while it ranks {weights:,} weights, which take {weight_bytes:,} bytes.

{table}

{caption}: `python benchmarks/processes.py`; the times are medians of {repeats}, with one thread a process
"""


class BytesSent(TorchDispatchMode):
    """Counts what this process hands to collectives, whatever calls them."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at every operation of torch."""
        if "c10d" in func.namespace:
            tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
            self.total += sum(value.numel() * value.element_size() for value in tensors)
        return func(*args, **(kwargs or {}))


def network() -> ResNet:
    """The same network everywhere."""
    torch.manual_seed(SEED)
    return ResNet(3)


def batch(index: int) -> Tensor:
    """The same batch everywhere."""
    return torch.randn(SIZE, 3, 32, 32, generator=torch.Generator().manual_seed(index))


def repaired(rank: int, world_size: int) -> tuple[float, dict[str, Tensor]]:
    """Seconds of one calibration, and the network after it."""
    model = network()
    prune(model, 0.9)
    batches = [batch(index) for index in range(rank, BATCHES, world_size)]
    if world_size > 1:
        dist.barrier()
    start = time.perf_counter()
    calibrate(model, batches, max_batches=len(batches), progress=False)
    return time.perf_counter() - start, model.state_dict()


def bytes_of_ranking() -> int:
    """Bytes that this process sends to rank weights that are spread."""
    model: Any = network()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    with BytesSent() as sent:
        prune(model, 0.9)
    return sent.total


def work(rank: int, world_size: int, port: int, folder: str) -> None:
    """What every process does."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if world_size > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    runs = [repaired(rank, world_size) for _ in range(REPEATS)]
    found = {
        "seconds": statistics.median(seconds for seconds, _ in runs),
        "state": runs[0][1],
        "bytes": bytes_of_ranking() if world_size > 1 else 0,
    }
    torch.save(found, f"{folder}/{world_size}.{rank}.pt")
    if world_size > 1:
        dist.destroy_process_group()


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def difference(state: dict[str, Tensor], alone: dict[str, Tensor]) -> float:
    """The largest of any BatchNorm statistic, relative to its layer."""
    names = [name for name in alone if "running" in name]
    return max(float(((state[n] - alone[n]).abs().max() / alone[n].abs().max()).double()) for n in names)


def measure(world_size: int) -> list[dict[str, Any]]:
    """What each of so many processes found."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (world_size, free_port(), folder), nprocs=world_size)
        return [torch.load(f"{folder}/{world_size}.{rank}.pt", weights_only=True) for rank in range(world_size)]


def main() -> None:
    """Measure, compare, write."""
    [alone] = measure(1)
    rows: list[Row] = [{"processes": 1, "calibration": f"{alone['seconds']:.2f} s", "differs by": "", "sent": ""}]
    worst = 0.0
    for world_size in (2,):
        found = measure(world_size)
        differs = max(difference(each["state"], alone["state"]) for each in found)
        weights = all(torch.equal(each["state"][n], alone["state"][n]) for each in found for n in ("conv1.weight",))
        worst = max(worst, differs if weights else float("inf"))
        seconds = max(each["seconds"] for each in found)
        sent = f"{max(each['bytes'] for each in found):,} bytes"
        rows.append(
            {"processes": world_size, "calibration": f"{seconds:.2f} s", "differs by": f"{differs:.1e}", "sent": sent}
        )
        print(rows[-1])
    layers = [m.weight for m in network().modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    weights = sum(weight.numel() for weight in layers)
    caption = f"{environment()}, seed {SEED}, {date.today()}"
    page = PAGE.format(
        batches=BATCHES,
        size=SIZE,
        weights=weights,
        weight_bytes=4 * weights,
        table=markdown(rows),
        caption=caption,
        repeats=REPEATS,
    )
    (ROOT / "docs" / "processes.md").write_text(page)
    content = {"environment": caption, "command": "python benchmarks/processes.py", "rows": rows}
    (Path(__file__).parent / "results" / "processes.json").write_text(json.dumps(content, indent=1) + "\n")
    print(markdown(rows))
    sys.exit(worst > 1e-6)


if __name__ == "__main__":
    main()
