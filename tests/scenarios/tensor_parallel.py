"""What processes do with a network whose layers are split over them, alone and together with `fully_shard`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers import Module, loader, trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from reflow_lightning import Masks, OneShot, Reflow, calibrate, measure_signal, prune
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.running.sharding import is_sharded
from scenarios.processes import error_of, failing_on_the_second, mine, named, values
from scenarios.sharded_repairs import REPAIRS, batches, network
from scenarios.trainings import resharded

INNER = 32
"""Of the blocks; torch computes split layers only where they can be shared out evenly."""

PLAN = {
    "1.up": ColwiseParallel(),
    "1.down": RowwiseParallel(),
    "2.up": ColwiseParallel(),
    "2.down": RowwiseParallel(),
}
CASES: dict[str, dict[str, Any]] = {
    "global": {"sparsity": 0.6},
    "floors": {"sparsity": 0.9, "min_kept": 0.01},
    "erk": {"sparsity": 0.7, "allocation": "erk"},
    "lamp": {"sparsity": 0.7, "allocation": "lamp"},
    "wanda": {"sparsity": 0.5, "criterion": "wanda"},
    "woodfisher": {"sparsity": 0.5, "criterion": "woodfisher"},
    "pattern": {"sparsity": 0.5, "pattern": "2:4", "include": ("*.down.weight",)},
}


def meshes() -> Iterator[tuple[int, int]]:
    """Sizes (data parallel, tensor parallel) of a mesh of all processes."""
    world = dist.get_world_size()
    return ((data, world // data) for data in (1, 2) if world % data == 0)


def split(model: nn.Module, data: int, tensor: int) -> Any:
    """The network split over the mesh as the tutorials do it."""
    mesh = init_device_mesh("cpu", (data, tensor), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], PLAN)
    if data > 1:
        for layer in (model[1], model[2], model):  # type: ignore[index]
            fully_shard(layer, mesh=mesh["data"])
    return model


def on_each(do: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """What is done to a whole network on each process, and to one that is split in each way."""
    model = network(INNER)
    found = {"whole": {"result": do(model), "state": values(model)}}
    for sizes in meshes():
        model = split(network(INNER), *sizes)
        assert any(map(is_sharded, model.parameters()))
        found["x".join(map(str, sizes))] = {"result": do(model), "state": values(model)}
    return found


def masks_of_every_kind(folder: Path) -> dict[str, Any]:
    found = {}
    for name, options in CASES.items():

        def choose(model: nn.Module, options: dict[str, Any] = options, name: str = name) -> Any:
            masks = prune(model, **options, batches=mine(batches()), max_batches=3)
            path = folder / f"{name}.pt"
            masks.save(path)
            loaded = Masks.load(path).spread_over(model)
            local = all(
                mask.shape == (p.to_local() if is_sharded(p) else p).shape
                for p, (_, mask) in zip(masks.parameters(model), loaded.local(model), strict=True)
            )
            further = prune(model, **options | {"sparsity": 0.92}, batches=mine(batches()), max_batches=3)
            return {
                "masks": masks.state_dict(),
                "loaded": loaded == masks,
                "local": local,
                "sparsities": masks.sparsities,
                "further": further.state_dict()["checksum"] if "pattern" not in options else 0,
            }

        found[name] = (
            on_each(choose)
            if name != "pattern"
            else on_each(lambda model: {"masks": prune(model, **CASES["pattern"]).state_dict()})
        )
    return found


def events_of_each(_: Path) -> dict[str, Any]:
    found = {}
    for name, repair in REPAIRS.items():

        def event(model: nn.Module, repair: Any = repair) -> Any:
            pruner = Pruner(0.7, repair=repair, calibration_batches=6)
            pruner.apply(model, mine(batches()))
            assert pruner.masks is not None
            signal = pruner.events[-1].signal["repaired"].to_dict()["layers"]
            return {"masks": pruner.masks.state_dict(), "variance": [row["variance"] for row in signal]}

        found[name] = on_each(event)
    return found


def a_training_that_keeps_zeros(_: Path) -> dict[str, Any]:
    """All processes see the same batches, so that the gradients are those of one."""

    def train(model: nn.Module) -> Any:
        masks = prune(model, 0.5)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, foreach=False)
        with masks.keep(model, optimizer) as handle:
            for inputs, labels in batches(3):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                handle.mask_gradients()
                optimizer.step()
        return masks.state_dict()

    return on_each(train)


def calibrations_that_are_undone(_: Path) -> dict[str, Any]:
    found = {}
    for sizes in meshes():
        dense, model = split(network(INNER), *sizes), split(network(INNER), *sizes)
        prune(model, 0.5)
        before = values(model)
        result = calibrate(model, mine(batches()), repair="reconstruct", reference=dense, max_batches=6)
        after = values(model)
        measure_signal(model, mine(batches()), reference=dense, max_batches=6)
        result.undo()
        found["x".join(map(str, sizes))] = {"before": before, "after": after, "undone": values(model)}
    return found


def a_repair_that_breaks_on_one(_: Path) -> dict[str, Any]:
    found = {}
    for sizes in meshes():
        model, seen = split(network(INNER), *sizes), []
        before = values(model)

        forward = partial(failing_on_the_second, seen=seen)
        pruner = Pruner(0.7, repair="reconstruct", calibration_batches=6, forward=forward, monitor=False)
        raised = error_of(pruner.apply, model, mine(batches()))
        found["x".join(map(str, sizes))] = {"raised": raised, "before": before, "after": values(model)}
    return found


class Split(Module):
    """A LightningModule whose layers are split over a mesh of two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))

    def configure_model(self) -> None:
        if any(map(is_sharded, self.net.parameters())):
            return
        parallelize_module(
            self.net, self.device_mesh["tensor_parallel"], {"1": ColwiseParallel(), "3": RowwiseParallel()}
        )
        if self.device_mesh["data_parallel"].size() > 1:
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, foreach=False)


def trainings(_: Path) -> dict[str, Any]:
    found = {}
    for data, tensor in meshes():
        torch.manual_seed(0)
        module = Split()
        dense = copy.deepcopy(module.state_dict())
        callback = Reflow(0.6, schedule=OneShot(step=2), repair="reconstruct", calibration_batches=4)
        strategy = ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor)
        runner = trainer(callback, strategy=strategy, max_epochs=2, devices=dist.get_world_size())
        runner.fit(module, loader(shuffle=False), loader(16, shuffle=False))
        found[f"{data}x{tensor}"] = {
            "masks": callback.state_dict()["masks"],
            "end": resharded(module),
            "dense": dense,
            "split": tensor == 1 or is_sharded(module.net[1].weight),
        }
    return found


SCENARIOS = named(
    masks_of_every_kind,
    events_of_each,
    a_training_that_keeps_zeros,
    calibrations_that_are_undone,
    a_repair_that_breaks_on_one,
    trainings,
)
