"""What processes do together with a network that is whole one unit at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.running.lent import LENT
from reflow_lightning.running.processes import gather
from reflow_lightning.running.units import Unit, by_unit, copied_by_unit, from_outermost, held, runnable, serving
from scenarios.processes import error_of, mine, named, whole
from scenarios.sharded_repairs import Block

DEPTH = 8


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    norms = [nn.LayerNorm(16) if place % 2 else nn.BatchNorm1d(16) for place in range(DEPTH)]
    return nn.Sequential(nn.Linear(7, 16), *(Block(norm) for norm in norms), nn.Linear(16, 5)).eval()


def spread() -> Any:
    model = deep()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*model[1:-1], model):  # type: ignore[misc]
        fully_shard(layer, mesh=mesh)
    return model


def batches(count: int = 4) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 7, generator=generator) for _ in range(count)]


def here() -> int:
    """The bytes of all lent parameters that are whole on this process."""
    return sum(parameter.untyped_storage().nbytes() for parameter in list(LENT.keys()))


def one_after_the_other(network: Any, x: Tensor) -> Any:
    """A forward pass that never calls the network as a whole."""
    for layer in network:
        x = layer(x)
    return x


@torch.no_grad()
def passes(_: Path) -> dict[str, Any]:
    """The last process runs three batches, all others none."""
    model = spread()
    copied = copied_by_unit(model)
    empty, nan = here(), all(bool(p.isnan().all()) for p in copied.parameters())
    count, most = 3 if dist.get_rank() == dist.get_world_size() - 1 else 0, []
    for block in copied[1:-1]:  # type: ignore[index]
        block.norm.register_forward_hook(lambda *_: most.append(here()))
    with serving(copied):
        outputs = [copied(x) for x in batches(count)]
        outputs += [from_outermost(one_after_the_other)(copied, x) for x in batches(count)]
    expected = [deep()(x) for x in batches(count)] * 2
    equal = all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    held_outside = error_of(lambda: held(copied).__enter__())
    return {"empty": empty, "nan": nan, "equal": equal, "most": most, "after": here(), "outside": held_outside}


@torch.no_grad()
def writing(_: Path) -> dict[str, Any]:
    """What is written while a layer is held reaches the network, and what another process asks for meanwhile."""
    model = spread()
    copied, seen = by_unit(model), None
    weight = copied.get_parameter("2.up.weight")
    last = dist.get_rank() == dist.get_world_size() - 1
    with serving(copied):
        with held(copied[2].up):  # type: ignore[index]
            weight.mul_(2)
            gather("all have written")
            if last:
                with held(copied[2].down):  # type: ignore[index]
                    weight.mul_(1)
            gather("the last has asked")
        if last:
            with held(copied[2].up):  # type: ignore[index]
                seen = weight.clone()
    found = {name: whole(value.detach()) for name, value in model.named_parameters()}
    return {"found": found, "seen": seen, "dense": dict(deep().named_parameters())}


@torch.no_grad()
def failing(_: Path) -> dict[str, Any]:
    model, rank = spread(), dist.get_rank()

    def run() -> None:
        with runnable(model) as network:
            network[3].register_forward_pre_hook(lambda *_: 1 / (1 - rank))  # type: ignore[operator,index]
            measure_signal(network, batches(2), forward=lambda net, x: net(x), max_batches=2)

    raised = error_of(run)
    again = measure_signal(model, batches(2), max_batches=2)
    x = batches()[0]
    return {"raised": raised, "after": here(), "rows": len(again.rows), "output": model(x), "expected": deep()(x)}


def repairs(_: Path) -> dict[str, Any]:
    """The most that a process ever holds whole of both networks together."""
    found = {}
    send = Unit.send
    for repair in ("batchnorm", "moments", "auto", "reconstruct", "reselect"):
        model, dense, most = spread(), spread(), [0]

        def noted(unit: Unit, most: list[int] = most) -> None:
            send(unit)
            most[0] = max(most[0], here())

        prune(model, 0.7)
        Unit.send = noted  # type: ignore[method-assign]
        try:
            reference = None if repair == "batchnorm" else dense
            done = calibrate(model, mine(batches()), repair=repair, reference=reference, max_batches=4)
        finally:
            Unit.send = send  # type: ignore[method-assign]
        found[repair] = {"most": most[0], "repaired": len(done.repaired), "after": here()}
    return found


SCENARIOS = named(passes, writing, failing, repairs)
