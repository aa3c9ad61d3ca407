"""What a network that is spread over processes gets by every criterion, allocation and repair, beside a whole one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Align
from reflow_lightning.events.pruner import Pruner
from scenarios.processes import error_of, failing_on_the_second, mine, named, values

CRITERIA: tuple[Any, ...] = ("magnitude", "wanda", "fisher", "taylor", "snip", "woodfisher")
ALLOCATIONS = ("global", "lamp", "uniform", "entropy")
REPAIRS: dict[str, Any] = {
    "auto": "auto",
    "moments": "moments",
    "reconstruct": "reconstruct",
    "reselect": "reselect",
    "align": ["reconstruct", Align(steps=10)],
}


class Block(nn.Module):
    """A residual block with a norm of its own kind."""

    def __init__(self, norm: nn.Module, inner: int = 30) -> None:
        super().__init__()
        self.norm, self.up, self.down = norm, nn.Linear(16, inner), nn.Linear(inner, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.down(torch.relu(self.up(self.norm(x))))
        return out


def network(inner: int = 30) -> nn.Sequential:
    """Seven rows of inputs are no multiple of the processes, nor are five of the head."""
    torch.manual_seed(0)
    blocks = Block(nn.BatchNorm1d(16), inner), Block(nn.LayerNorm(16), inner)
    return nn.Sequential(nn.Linear(7, 16), *blocks, nn.Linear(16, 5))


def batches(count: int = 6) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 7, generator=generator), torch.arange(32) % 5) for _ in range(count)]


def spread(model: nn.Module) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[1], model[2], model):  # type: ignore[index]
        fully_shard(layer, mesh=mesh)
    return model


def on_both(do: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """What is done to a whole network on each process, and to one that is spread over them."""
    found = {}
    for kind, model in (("whole", network()), ("spread", spread(network()))):
        found[kind] = {"result": do(model), "state": values(model)}
    return found


def functions_of_each(_: Path) -> dict[str, Any]:
    """Uneven: the last process has one batch more or less."""
    found = {}
    given = mine(batches(5))

    def by(criterion: str, allocation: str) -> Callable[[nn.Module], Any]:
        how: dict[str, Any] = {"criterion": criterion, "allocation": allocation, "batches": given, "max_batches": 3}
        return lambda model: prune(model, 0.6, **how).state_dict()

    for criterion in CRITERIA:
        found[f"{criterion} global"] = on_both(by(criterion, "global"))
    for allocation in ALLOCATIONS[1:]:
        found[f"magnitude {allocation}"] = on_both(by("magnitude", allocation))
    found["wanda lamp"] = on_both(by("wanda", "lamp"))
    square = {"criterion": lambda name, weight: weight.square() + weight.abs().max()}
    found["a function"] = on_both(lambda model: prune(model, 0.6, **square).state_dict())
    return found


def events_of_each(_: Path) -> dict[str, Any]:
    found = {}
    for name, repair in REPAIRS.items():
        for steps in (1, 3) if name in ("reconstruct", "reselect") else (1,):

            def event(model: nn.Module, repair: Any = repair, steps: int = steps) -> Any:
                pruner = Pruner(0.7, repair=repair, steps=steps, calibration_batches=6)
                pruner.apply(model, mine(batches()))
                assert pruner.masks is not None
                return pruner.masks.state_dict()

            found[f"{name} {steps}"] = on_both(event)
    return found


def calibrations_that_are_undone(_: Path) -> dict[str, Any]:
    """The dense network is spread, too."""
    dense, model = spread(network()), spread(network())
    model.eval()
    prune(model, 0.5)
    before = values(model)
    result = calibrate(model, mine(batches()), repair="reconstruct", reference=dense, max_batches=6)
    after = values(model)
    with torch.no_grad():
        model(batches()[0][0])  # which leaves the root whole
    result.undo()
    undone = values(model)
    loss = model(batches()[0][0]).square().mean()
    loss.backward()
    grads = all(p.grad is not None for p in model.parameters())
    return {"before": before, "after": after, "undone": undone, "grads": grads, "dense": values(dense)}


def a_repair_that_breaks_on_one(_: Path) -> dict[str, Any]:
    found = {}
    for repair in ("reconstruct", "moments"):
        model, seen = spread(network()), []
        before = values(model)

        forward = partial(failing_on_the_second, seen=seen)
        pruner = Pruner(0.7, repair=repair, calibration_batches=6, forward=forward, monitor=False)
        raised = error_of(pruner.apply, model, mine(batches()))
        after = values(model)
        again = error_of(model, batches()[0][0])
        found[repair] = {"raised": raised, "before": before, "after": after, "again": again}
    return found


def copies(_: Path) -> dict[str, Any]:
    from reflow_lightning.running.plain import plain_copy, write_back
    from reflow_lightning.running.sharding import sharded_modules

    model = network()
    model[3].weight = model[3].weight  # own
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(tied, mesh=mesh)
    hooked: list[int] = []
    spread(model)
    model.register_forward_hook(lambda *_: hooked.append(1))
    copied, of_tied = plain_copy(model), plain_copy(tied)
    inputs = batches()[0][0]
    equal = torch.equal(copied.eval()(inputs), copy.deepcopy(network()).eval()(inputs))
    loss = copied.train()(inputs).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    write_back(model, copied)
    return {
        "equal": equal,
        "hooked": len(hooked),
        "kinds": [type(module).__name__ for module in copied.modules()],
        "sharded": len(sharded_modules(copied)),
        "tied": of_tied[0].weight is of_tied[1].weight,
        "written": values(model),
        "still": len(sharded_modules(model)),
        "output": model(inputs).shape,
    }


SCENARIOS = named(functions_of_each, events_of_each, calibrations_that_are_undone, a_repair_that_breaks_on_one, copies)
