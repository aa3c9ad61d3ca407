"""Trainings with the strategy `FullyShard`, and what of other strategies is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers import Module
from torch import nn

from reflow_lightning import OneShot, Reflow
from reflow_lightning.callbacks import FullyShard
from reflow_lightning.callbacks.strategies import check_same_parameters
from reflow_lightning.running.sharding import is_sharded, sharded_modules
from scenarios.processes import error_of, named
from scenarios.trainings import fit, one_shot, resharded, seeded

PAGE = Path(__file__).parent.parent.parent / "docs" / "how_to" / "several_gpus.md"


class Blocks(Module):
    """Three residual blocks between two layers, in a list of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.net(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 0.01)


def in_one_line(_: Path) -> dict[str, Any]:
    return one_shot(FullyShard(), seeded())


def a_list_of_blocks(_: Path) -> dict[str, Any]:
    module, callback = seeded(Blocks), Reflow(0.6, schedule=OneShot(step=2), repair="reconstruct")
    fit(callback, module, FullyShard())
    return {
        "units": len(sharded_modules(module)),
        "sharded": all(is_sharded(parameter) for parameter in module.parameters()),
        "masks": callback.state_dict()["masks"],
        "end": resharded(module),
        "configures": "configure_model" in vars(module),
    }


class Normed(Blocks):
    """With LayerNorm: on a CPU, torch's BatchNorm takes no weights in bfloat16 beside statistics in float32."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block[1] = nn.LayerNorm(8)


class Shared(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1][0].weight = self.blocks[0][0].weight


class Own(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def what_is_refused(_: Path) -> list[str]:
    found = []
    for kind in (Shared, Own):
        module = seeded(kind)
        found.append(error_of(fit, Reflow(0.6), module, FullyShard()))
        assert not sharded_modules(module)
    return found


class Stages(Module):
    """Each process has a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({f"stage_{dist.get_rank()}": nn.Linear(3, 3)})


def parameters_of_some_alone(_: Path) -> str:
    return error_of(check_same_parameters, seeded(Stages))


def the_lines_of_the_page(_: Path) -> dict[str, Any]:
    """What turns a script with FSDP1 into one that works, as it stands there."""
    code = re.search(r"<!-- fsdp1 -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    module, callback = seeded(Normed), Reflow(0.6, schedule=OneShot(step=2))
    fit(callback, module, names["strategy"])
    return {"masks": callback.state_dict()["masks"], "end": resharded(module)}


SCENARIOS = named(in_one_line, a_list_of_blocks, what_is_refused, parameters_of_some_alone, the_lines_of_the_page)
