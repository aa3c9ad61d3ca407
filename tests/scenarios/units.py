"""What processes do together with a network that is whole one unit at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.pruning import PerOutput, Wanda
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.lent import LENT
from reflow_lightning.running.processes import gather
from reflow_lightning.running.shards import part_of
from reflow_lightning.running.unit import Unit
from reflow_lightning.running.units import by_unit, copied_by_unit, from_outermost, held, runnable, serving
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


@contextmanager
def noting_most() -> Iterator[list[int]]:
    """The most that this process holds whole after any unit was sent."""
    send, most = Unit.send, [0]

    def noted(unit: Unit) -> None:
        send(unit)
        most[0] = max(most[0], here())

    Unit.send = noted  # type: ignore[method-assign]
    try:
        yield most
    finally:
        Unit.send = send  # type: ignore[method-assign]


def repairs(_: Path) -> dict[str, Any]:
    """The most that a process ever holds whole of both networks together."""
    found = {}
    for repair in ("batchnorm", "moments", "auto", "reconstruct", "reselect"):
        model, dense = spread(), spread()
        prune(model, 0.7)
        with noting_most() as most:
            reference = None if repair == "batchnorm" else dense
            done = calibrate(model, mine(batches()), repair=repair, reference=reference, max_batches=4)
        found[repair] = {"most": most[0], "repaired": len(done.repaired), "after": here()}
    return found


BY_DATA: dict[str, dict[str, Any]] = {
    "wanda": {"criterion": "wanda"},
    "wanda by place": {"criterion": PerOutput(Wanda("all"))},
    "entropy": {"allocation": "entropy"},
}
"""Prunings that read data, and no gradient."""


def pruned_by_data(_: Path) -> dict[str, Any]:
    """The masks, and the most that a process ever holds whole."""
    found = {}
    for name, how in BY_DATA.items():
        with noting_most() as most:
            masks = prune(spread(), 0.6, **how, batches=mine(batches()), max_batches=4)
        found[name] = {"masks": masks.state_dict(), "most": most[0], "after": here()}
    part = part_of("weight", spread().get_parameter("2.up.weight"))
    scores = Scores("weight", part.values, lambda name, weight: weight.double(), part=part)
    found["scores"] = scores.tensor.untyped_storage().nbytes() / (8 * part.values.numel())
    return found


class Gate(nn.Module):
    """A parameter of one element, and a scale that each forward pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.scale = nn.Parameter(torch.tensor([0.5])), nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.scale.data.add_(1)
        return x * self.gate


class Force(nn.Module):
    """The slope of an inner network, which is differentiated in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(7, 16), nn.Linear(16, 1), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            x = x.detach().requires_grad_()
            energy = self.second(torch.tanh(self.first(x)))
            (slope,) = torch.autograd.grad(energy.sum(), x)
        out: Tensor = self.last(slope)
        return out


class Tied(nn.Module):
    """The weight of a unit is used outside of it, and one of its methods is called beside ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(7, 16), Block(nn.LayerNorm(16)), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(nn.functional.linear(self.block(self.first(x)), self.first.weight.T))
        return out


class Encoding(Block):
    """A block with a method of its own."""

    def encode(self, x: Tensor) -> Tensor:
        return self.forward(x)


class Encoder(nn.Module):
    """It calls that method."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Linear(7, 16), Encoding(nn.LayerNorm(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.block.encode(self.first(x))


def odd(_: Path) -> dict[str, Any]:
    """Networks whose parameters are needed elsewhere, or come in odd sizes, beside whole ones."""

    def built(kind: Any, shard: bool) -> Any:
        torch.manual_seed(0)
        gated = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), Gate(), nn.Linear(16, 1))
        model: Any = (gated if kind is Gate else kind()).eval()
        if shard:
            how: dict[str, Any] = {"mesh": init_device_mesh("cpu", (dist.get_world_size(),))}
            how |= {"reshard_after_forward": False} if kind is Tied else {}
            for child in model.children():
                if any(True for _ in child.parameters()):
                    fully_shard(child, **how)
            if kind is Encoder:
                register_fsdp_forward_method(model.block, "encode")
            fully_shard(model, **how)
        return model

    found: dict[str, Any] = {}
    for kind in (Gate, Force, Tied, Encoder):
        reports = [measure_signal(built(kind, shard), mine(batches()), max_batches=4) for shard in (False, True)]
        found[kind.__name__] = [[(row.name, row.variance) for row in report.rows] for report in reports]
    states = []
    for shard in (False, True):
        dense, model = built(Gate, shard), built(Gate, shard)
        prune(model, 0.5)
        calibrate(model, mine(batches()), repair="reconstruct", reference=dense, max_batches=4)
        states.append({name: whole(value.detach()).clone() for name, value in model.named_parameters()})
    return {"signal": found, "states": states}


SCENARIOS = named(passes, writing, failing, repairs, pruned_by_data, odd)
