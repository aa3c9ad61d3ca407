"""What an event under `fully_shard` sends, and how much memory it takes on each process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoints
from processes import BytesSent
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from reflow_lightning import Masks, prune
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.pruning import make_masks
from sharded_cases.group import Peak, sharded, sharded_layers, together

SPARSITY = 0.9
SIZES = {"25M": (512, 6, 12_000), "100M": (768, 12, 20_000)}
"""Width, blocks and words of transformers with about so many parameters."""


class Transformer(nn.Module):
    """A classifier of sentences, of torch's own layers."""

    def __init__(self, width: int, depth: int, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        how: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 8, 4 * width, **how) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classes of sentences (N, L) of words."""
        x = self.words(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean(1))
        return out


def _network(size: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(*SIZES[size])


def _batches(size: str) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1 + dist.get_rank())
    words = SIZES[size][2]
    return [(torch.randint(words, (4, 16), generator=generator), torch.arange(4)) for _ in range(2)]


def _measured(function: Any) -> tuple[Any, dict[str, int]]:
    with BytesSent() as sent, Peak() as peak:
        result = function()
    return result, {"sent": sent.total, "peak": peak.bytes}


def steps_of(size: str, folder: str) -> dict[str, Any]:
    """Train two steps, prune, repair, save; what each sends and takes."""
    model = sharded(_network(size))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def train() -> None:
        for inputs, labels in _batches(size):
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    found: dict[str, Any] = {}
    _, found["two steps of training"] = _measured(train)
    everywhere = 2 * dist.get_world_size()
    by_data = {"criterion": "wanda", "batches": _batches(size), "max_batches": everywhere}
    _, found["rank, wanda"] = _measured(lambda: make_masks(model, SPARSITY, **by_data))
    masks, found["rank and mask, magnitude"] = _measured(lambda: prune(model, SPARSITY))
    _, found["save the masks"] = _measured(lambda: masks.save(f"{folder}/masks.pt"))
    for repair in ("moments", "reconstruct"):
        pruner = Pruner(SPARSITY, repair=repair, calibration_batches=everywhere, monitor=False)
        _, found[f"prune and repair, {repair}"] = _measured(lambda p=pruner: p.apply(model, _batches(size)))
    assert pruner.masks is not None
    pruner.masks.save(f"{folder}/masks.pt")
    state = {"state_dict": get_model_state_dict(model)}
    _, found["save the network as a folder"] = _measured(
        lambda: checkpoints.save(state, checkpoint_id=f"{folder}/parts")
    )
    with torch.no_grad():
        output = model.eval()(_batches(size)[0][0])
    return {"found": found, "weights": weights, "output": output, "inputs": _batches(size)[0][0]}


def loaded_elsewhere(size: str, folder: Path, ranks: list[dict[str, Any]]) -> str:
    """One process without a group reads what several wrote: zeros are where the masks say, and outputs are the same."""
    dcp_to_torch_save(folder / "parts", folder / "whole.pt")
    model = _network(size)
    model.load_state_dict(torch.load(folder / "whole.pt", weights_only=True)["state_dict"])
    masks = Masks.load(folder / "masks.pt")
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    with torch.no_grad():
        differs = max(float((model.eval()(rank["inputs"]) - rank["output"]).abs().max()) for rank in ranks)
    assert differs < 1e-4, differs
    return f"{masks.sparsity:.4f} of the selected weights are zero, outputs differ by {differs:.0e}"


def _large(folder: str) -> dict[str, Any]:
    """Fifteen layers of 67 million weights in bfloat16, of which no process ever holds one whole."""
    with torch.device("meta"):
        layers: list[nn.Module] = [nn.Linear(8192, 8192, bias=False, dtype=torch.bfloat16) for _ in range(15)]
    model = sharded_layers(layers)
    model.to_empty(device="cpu")
    torch.manual_seed(dist.get_rank())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().normal_()
    weights = sum(p.numel() for p in model.parameters())
    here = sum(p.to_local().numel() * p.element_size() for p in model.parameters())
    prune(nn.Linear(4096, 4096), SPARSITY)  # reads the code that ranks, which else counts as memory of the first step
    masks, ranking = _measured(lambda: prune(model, SPARSITY))
    state = {"state_dict": get_model_state_dict(model)}
    writer = checkpoints.FileSystemWriter(f"{folder}/parts", single_file_per_rank=False)
    found = {"rank and mask": ranking}
    _, found["save the network"] = _measured(lambda: checkpoints.save(state, storage_writer=writer))
    _, found["load it"] = _measured(lambda: checkpoints.load(state, checkpoint_id=f"{folder}/parts"))
    _, found["save the masks"] = _measured(lambda: masks.save(f"{folder}/masks.pt"))
    loaded, found["load them"] = _measured(lambda: Masks.load(f"{folder}/masks.pt"))
    assert abs(loaded.sparsity - masks.sparsity) < 1e-9
    return {"found": found, "weights": weights, "here": here, "masks": masks.nbytes, "sparsity": masks.sparsity}


def rows(size: str, world: int) -> dict[str, Any]:
    """A row for each step; and what came of the network elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        ranks = together(world, steps_of, size, name)
        told = loaded_elsewhere(size, Path(name), ranks)
    table = []
    for step in ranks[0]["found"]:
        sent, peak = (max(rank["found"][step][kind] for rank in ranks) for kind in ("sent", "peak"))
        table.append(_row(size, world, step, sent, peak, ranks[0]["weights"]))
    parameters = ranks[0]["weights"] // 4
    return {"rows": table, "elsewhere": f"{parameters:,} parameters, {world} processes: {told}."}


def _row(size: str, world: int, step: str, sent: int, peak: int, weights: int) -> dict[str, Any]:
    return {
        "parameters": size,
        "processes": world,
        "step": step,
        "collectives": f"{sent / 2**20:,.2f} MiB",
        "peak": f"{peak / 2**20:,.0f} MiB",
        "of the whole weights": f"{peak / weights:.2f} x",
    }


def large_rows(world: int) -> dict[str, Any]:
    """A billion weights."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = together(world, _large, folder)
    assert all(abs(rank["sparsity"] - SPARSITY) < 1e-6 for rank in ranks)
    found = []
    for step in ranks[0]["found"]:
        sent, peak = (max(rank["found"][step][kind] for rank in ranks) for kind in ("sent", "peak"))
        share = max((rank["found"][step]["peak"] + rank["here"]) / rank["here"] for rank in ranks)
        found.append(
            {
                "step": step,
                "collectives": f"{sent / 2**20:,.2f} MiB",
                "weights here": f"{ranks[0]['here'] / 2**20:,.0f} MiB",
                "masks here": f"{ranks[0]['masks'] / 2**20:,.0f} MiB",
                "peak beside the weights": f"{peak / 2**20:,.0f} MiB",
                "weights and peak over weights": f"{share:.2f} x",
            }
        )
    return {"rows": found}
