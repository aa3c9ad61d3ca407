"""Trainings that mix `fully_shard` with what large networks need: offloading, narrow types, recomputing, compiling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers import loader
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy
from torch.utils.data import DataLoader

from reflow_lightning import OneShot, Reflow
from reflow_lightning.callbacks import FullyShard
from reflow_lightning.running.sharding import sharded_modules
from scenarios.fully_sharded import Normed
from scenarios.processes import named
from scenarios.trainings import fit, resharded

BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


class Recomputing(Normed):
    """Its blocks compute their activations again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(checkpoint_wrapper(block) for block in self.blocks)


class Compiling(Normed):
    """Each of its blocks is compiled; ``eager`` takes the same way but for the machine code."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.compile(backend="eager")


class Accumulating(Normed):
    """Gradients of two batches are added up before they are exchanged."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer, last = self.optimizers(), batch_idx % 2 == 1
        for unit in sharded_modules(self):
            unit.set_requires_gradient_sync(last, recurse=False)
        nn.functional.cross_entropy(self(batch[0]), batch[1]).backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()


MIXES: dict[str, tuple[type[Normed], dict[str, Any], dict[str, Any]]] = {
    "offloaded to the CPU": (Normed, {"offload_policy": CPUOffloadPolicy(pin_memory=False)}, {}),
    "bf16 with fp32 masters": (Normed, {"mp_policy": BF16}, {}),
    "bf16-true": (Normed, {}, {"precision": "bf16-true"}),
    "recomputed activations": (Recomputing, {}, {}),
    "compiled blocks": (Compiling, {}, {}),
    "gradients without sync": (Accumulating, {}, {}),
    "held after the forward pass": (Normed, {"reshard_after_forward": False}, {}),
}


def batches() -> DataLoader[Any]:
    return loader(64, 8, shuffle=False)


def mixed(name: str, repair: str) -> dict[str, Any]:
    kind, sharding, options = MIXES[name]
    torch.manual_seed(0)
    module, callback = kind(), Reflow(0.6, schedule=OneShot(step=2), repair=repair, calibration_batches=4)
    fit(callback, module, FullyShard(sharding), batches=batches(), **options)
    [event] = callback.events
    return {
        "masks": callback.state_dict()["masks"],
        "end": resharded(module),
        "repaired": list(event.calibration.repaired),
        "dtypes": sorted({str(parameter.dtype) for parameter in module.parameters()}),
        "variance": [row["variance"] for row in event.signal["repaired"].to_dict()["layers"]],
        "dense": [row["variance"] for row in event.signal["dense"].to_dict()["layers"]],
    }


def every_mix(_: Path) -> dict[str, Any]:
    return {f"{name}, {repair}": mixed(name, repair) for name in MIXES for repair in ("reconstruct", "moments")}


def cast_copies(_: Path) -> dict[str, Any]:
    """What a whole copy computes beside the network that `fully_shard` casts."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from reflow_lightning.running.plain import plain_copy
    from scenarios.sharded_repairs import network

    model: Any = network()[2:]
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for layer in (model[0], model):
        fully_shard(layer, mesh=mesh, mp_policy=BF16)
    inputs = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    copied = plain_copy(model)
    return {"cast": model(inputs).detach(), "copied": copied(inputs).detach(), "dtype": str(copied[1].weight.dtype)}


SCENARIOS = named(every_mix, cast_copies)
