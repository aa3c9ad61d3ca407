"""A process group of one rank: NCCL on a GPU, gloo on a CPU. Its weights are sharded, and its calibration is shared."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gpu_cases.timing import row
from reflow_lightning import Masks, prune
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.running.gathered import gather_tensors
from reflow_lightning.running.processes import gather, together, total


def rows(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Raises if anything differs from what one process without a group gets."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    batches = [torch.randn(16, 3, 32, 32) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, f"file://{folder}/store", rank=0, world_size=1)
        try:
            _exchange(device)
            weights = sum(_compared(device, batches, repair, Path(folder)) for repair in ("auto", "reconstruct"))
        finally:
            dist.destroy_process_group()
    return [row(f"{backend} with one rank, `fully_shard`", f"masks and repairs of {weights:,} weights", "equal")]


def _exchange(device: torch.device) -> None:
    ones = torch.ones(3, device=device)
    with together("exchanging"):
        assert gather("here") == ["here"]
        assert torch.equal(gather_tensors([ones])[0][0], ones)
        assert torch.equal(total(ones), ones)


def _compared(device: torch.device, batches: list[torch.Tensor], repair: str, folder: Path) -> int:
    torch.manual_seed(0)
    plain = ResNet(1).to(device)
    torch.manual_seed(0)
    spread: Any = ResNet(1).to(device)
    fully_shard(spread, mesh=init_device_mesh(device.type, (1,)))
    masks = []
    for model in (plain, spread):
        pruner = Pruner(0.7, repair=repair, calibration_batches=2, monitor=False)
        pruner.apply(model, batches)
        assert pruner.masks is not None
        pruner.masks.save(folder / "masks.pt")
        masks.append(Masks.load(folder / "masks.pt"))
    assert masks[0] == masks[1]
    assert prune(spread, 0.7).sparsities == masks[0].sparsities
    for name, value in plain.state_dict().items():
        found = spread.state_dict()[name]
        found = found.full_tensor() if hasattr(found, "full_tensor") else found
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    return sum(mask.numel() for mask in masks[0].values())
