"""What processes do together with a model whose parameters are spread over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from zoo.convolutional import uneven

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.pruning import Magnitude
from reflow_lightning.pruning.keeping import ZeroKeeper
from reflow_lightning.running.sharding import reshard
from scenarios.functions import BATCHES
from scenarios.processes import error_of, mine, named, values

CASES: dict[str, dict[str, Any]] = {
    "global": {"sparsity": 0.7},
    "floors": {"sparsity": 0.9, "min_kept": 0.01},
    "uniform": {"sparsity": 0.6, "allocation": "uniform"},
    "erk": {"sparsity": 0.8, "allocation": "erk"},
    "random": {"sparsity": 0.5, "criterion": "random"},
    "pattern": {"sparsity": 0.6, "pattern": "2:4", "exclude": ("0.*", "8.*", "9.*")},
}


def plain(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return uneven().to(dtype)


def spread(model: nn.Module) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=mesh)
    return model


class BytesSent(TorchDispatchMode):
    """Counts the bytes that this process hands over to collectives."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace:
            for value in tree_flatten((args, kwargs))[0]:
                if isinstance(value, Tensor):
                    self.total += value.numel() * value.element_size()
                    self.largest = max(self.largest, value.numel() * value.element_size())
        return func(*args, **(kwargs or {}))


def masks_of_every_kind(_: Path) -> dict[str, Any]:
    found = {}
    for name, options in CASES.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            model = spread(plain(dtype))
            masks = prune(model, **options)
            further = prune(model, **options | {"sparsity": 0.95}) if name != "floors" else masks
            found[f"{name} {dtype}"] = {
                "masks": masks.state_dict(),
                "further": further.state_dict(),
                "sparsity": masks.sparsity,
                "sparsities": masks.sparsities,
                "state": values(model),
            }
    return found


def bytes_sent(_: Path) -> dict[str, int]:
    """Ranking a million weights, and storing their masks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1000, 500), nn.Linear(500, 1000))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[1], model):
        fully_shard(layer, mesh=mesh)
    with BytesSent() as ranking:
        masks = prune(model, 0.9, min_kept=0.001)
    with BytesSent() as storing:
        masks.state_dict()
    return {"ranking": ranking.total, "storing": storing.total, "largest": ranking.largest}


def statistics_and_signal(_: Path) -> dict[str, Any]:
    model, dense = spread(plain()), spread(plain())
    prune(model, 0.5)
    batches = mine(BATCHES)[: dist.get_rank() + 1]  # other numbers on each process
    before = values(model)
    result = calibrate(model, batches, max_batches=len(batches))
    after = values(model)
    signal = measure_signal(model, batches, reference=dense, max_batches=len(batches)).to_dict()
    result.undo()
    return {"before": before, "after": after, "undone": values(model), "signal": signal}


def a_batch_that_breaks_sharded(_: Path) -> dict[str, Any]:
    model = spread(plain())
    before = values(model)
    handle = model[3].register_forward_hook(lambda *_: 1 / 0 if dist.get_rank() == 1 else None)
    try:
        calibrate(model, mine(BATCHES), max_batches=len(mine(BATCHES)))
        raised = "nothing"
    except Exception as error:
        raised = type(error).__name__
    handle.remove()
    after = values(model)
    calibrate(model, mine(BATCHES), max_batches=len(mine(BATCHES)))  # it still works
    return {"raised": raised, "before": before, "after": after}


def training_keeps_zeros(folder: Path) -> dict[str, Any]:
    model = spread(plain())
    masks = prune(model, 0.7)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    keeper = ZeroKeeper()
    keeper.bind(model, masks)
    keeper.watch()
    for batch in BATCHES[:3]:
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        keeper.mask_gradients()
        optimizer.step()
    keeper.forget_moments(optimizer)
    masks.save(folder / f"masks_of_{dist.get_world_size()}.pt")
    moments = [s["exp_avg"].full_tensor() for s in (optimizer.state[p] for p in masks.parameters(model))]
    return {"masks": masks.state_dict(), "state": values(model), "moments": moments}


def masks_of_other_numbers_of_processes(folder: Path) -> dict[str, Any]:
    masks = prune(plain(), 0.7)  # whole on every process, as loaded from a checkpoint
    model = spread(plain())
    masks.apply(model)
    held = masks.spread_over(model)
    return {
        "state": values(model),
        "masks": held.state_dict(),
        "local": [mask.to_local().shape[0] for mask in held.values()],
    }


def split_otherwise(_: Path) -> dict[str, Any]:
    """A tensor that is split along its columns, and one whose pieces are still to be added up."""
    from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    columns, sums = plain(), plain()
    weight = columns[3].weight.detach()
    columns[3].weight = nn.Parameter(distribute_tensor(weight, mesh, [Shard(1)]))
    sums[3].weight = nn.Parameter(DTensor.from_local(weight, mesh, [Partial()]))
    masks = prune(columns, 0.7)
    whole = masks.from_state_dict(masks.state_dict())
    refused = error_of(prune, sums, 0.7), error_of(whole.apply, sums)
    unchanged = torch.equal(sums[0].weight, plain()[0].weight)
    return {"masks": masks.state_dict(), "state": values(columns), "refused": refused, "unchanged": unchanged}


def a_weight_that_is_not_finite_on_one(_: Path) -> str:
    model = spread(plain())
    if dist.get_rank() == 0:
        model[3].weight.to_local().data[0, 0, 0, 0] = float("nan")
    return error_of(prune, model, 0.5)


def after_an_evaluation(_: Path) -> dict[str, Any]:
    """A forward pass leaves the outermost module whole."""
    model = spread(plain()).eval()
    with torch.no_grad():
        model(BATCHES[0])
    masks = prune(model, 0.7)
    with torch.no_grad():
        model(BATCHES[0])
    masks.apply(model)
    reshard(model)
    return {"masks": masks.state_dict(), "state": values(model)}


class Fails(Magnitude):
    """A criterion that fails on one process."""

    def pieces(self, name: str, weight: Tensor, /, start: int = 0) -> Any:
        if dist.get_rank() == 1 and name == "3.weight":
            raise ZeroDivisionError("in the criterion")
        return super().pieces(name, weight, start)


def a_criterion_that_breaks(_: Path) -> list[str]:
    texts = []
    for options in ({}, {"pattern": "2:4", "exclude": ("0.*", "8.*", "9.*")}):
        try:
            prune(spread(plain()), 0.6, criterion=Fails(), **options)
        except Exception as error:
            texts.append(type(error).__name__)
    return texts


SHARDED = named(
    masks_of_every_kind,
    bytes_sent,
    statistics_and_signal,
    a_batch_that_breaks_sharded,
    training_keeps_zeros,
    masks_of_other_numbers_of_processes,
    split_otherwise,
    a_weight_that_is_not_finite_on_one,
    after_an_evaluation,
    a_criterion_that_breaks,
)
