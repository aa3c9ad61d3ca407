"""Every criterion, every allocation and every repair: several processes beside one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reflow_lightning.calibration import Align
from reflow_lightning.events.pruner import Pruner
from sharded_cases.group import sharded, together

CRITERIA = ("magnitude", "wanda", "fisher", "taylor", "snip", "woodfisher")
ALLOCATIONS = ("global", "uniform", "lamp", "entropy")
PAIRS = [*((criterion, "global") for criterion in CRITERIA), *(("magnitude", a) for a in ALLOCATIONS[1:])]
REPAIRS: dict[str, Any] = {
    "auto": "auto",
    "moments": "moments",
    "reconstruct": "reconstruct",
    "reselect": "reselect",
    "align": ["reconstruct", Align(steps=10)],
}
ORDERLESS = ("reconstruct", "reselect")
"""What does not depend on the order of batches, which several processes share out."""

BATCHES = 6


class Block(nn.Module):
    """A residual block."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.up, self.down = norm, nn.Linear(16, 30), nn.Linear(30, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Add what two layers make of it."""
        out: Tensor = x + self.down(torch.relu(self.up(self.norm(x))))
        return out


def network() -> nn.Sequential:
    """Its rows can't be shared out evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 16), Block(nn.BatchNorm1d(16)), Block(nn.LayerNorm(16)), nn.Linear(16, 5))


def batches() -> list[Any]:
    """The same everywhere."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 7, generator=generator), torch.arange(32) % 5) for _ in range(BATCHES)]


def events() -> dict[str, Any]:
    """Networks and masks after each, by its names."""
    found = {}
    alone = not dist.is_initialized()
    given = batches() if alone else batches()[dist.get_rank() :: dist.get_world_size()]
    for criterion, allocation in PAIRS:
        for name, repair in REPAIRS.items():
            model = network() if alone else sharded(network())
            how: dict[str, Any] = {"criterion": criterion, "allocation": allocation, "monitor": False}
            pruner = Pruner(0.6, repair=repair, calibration_batches=BATCHES, **how)
            torch.manual_seed(0)
            pruner.apply(model, given)
            assert pruner.masks is not None
            state = {n: v.full_tensor() if hasattr(v, "full_tensor") else v for n, v in model.state_dict().items()}
            found[f"{criterion}|{allocation}|{name}"] = {"masks": pruner.masks.state_dict()["bits"], "state": state}
    return found


def rows(world: int) -> dict[str, Any]:
    """A row for each criterion and allocation; and whether all agree as they should."""
    alone, ranks, table, agree = events(), together(world, events), [], True
    for criterion, allocation in PAIRS:
        row: dict[str, Any] = {"criterion": criterion, "allocation": allocation, "processes": world}
        for repair in REPAIRS:
            name = f"{criterion}|{allocation}|{repair}"
            row[repair], good = _compared(alone[name], [rank[name] for rank in ranks])
            agree &= good or repair not in ORDERLESS
        table.append(row)
    return {"rows": table, "agree": agree}


def _compared(alone: dict[str, Any], ranks: list[dict[str, Any]]) -> tuple[str, bool]:
    if not all(torch.equal(rank["masks"], alone["masks"]) for rank in ranks):
        return "**other masks**", False
    largest = {"running": 0.0, "weights": 0.0}
    for rank in ranks:
        for name, value in alone["state"].items():
            if value.is_floating_point():
                kind = "running" if "running" in name else "weights"
                scale = float(value.abs().max().clamp(min=1.0))
                largest[kind] = max(largest[kind], float((rank["state"][name] - value).abs().max()) / scale)
    return f"{max(largest.values()):.0e}", largest["running"] <= 1e-6 and largest["weights"] <= 1e-5
