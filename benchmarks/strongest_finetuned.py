"""How much of a training with labels `repair="best"` stands in for: the same masks, fine-tuned for 1, 5 and 20 epochs.

    REFLOW_DATA=... python benchmarks/strongest_finetuned.py [FOLDER]

The ResNet-20 of the published tables, pruned once by global magnitude, trained on under its masks with SGD on all
training images in REFLOW_DATA, and tested on the 10,000 test images. One seed; finished cells are kept in FOLDER. An
hour on a core.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from strongest import accuracy
from strongest_networks import Published, published
from tables import Row, in_kept_folder, publish
from torch import nn

from reflow_lightning import prune
from reflow_lightning.running.files import write_whole

SEED = 0
SPARSITIES, EPOCHS = (0.9, 0.95, 0.8), (1, 5, 20)
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4  # the rate rises over a tenth of the steps, and falls as a cosine


def finetune(model: nn.Module, case: Published, sparsity: float, epochs: int) -> dict[str, Any]:
    """Prune a network, and train it under its masks."""
    torch.manual_seed(SEED)
    loader = case.data.train_dataloader()
    masks = prune(model, sparsity, exclude=case.exclude)
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=epochs * len(loader), pct_start=0.1, cycle_momentum=False
    )
    kept = masks.keep(model, optimizer)
    model.train()
    start = time.perf_counter()
    for _ in range(epochs):
        for images, classes in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), classes).backward()
            optimizer.step()
            scheduler.step()
    kept.remove()
    images = len(loader.dataset)
    return {"sparsity": sparsity, "epochs": epochs, "seconds": time.perf_counter() - start, "images": images}


def main(folder: Path) -> None:
    """Fill the cells that are missing, and write the table."""
    case = published()[0]
    case.data.setup()
    dense, test = case.load(case.data), list(case.data.test_dataloader())
    cells = {}
    for epochs in EPOCHS:
        for sparsity in SPARSITIES:
            path = folder / f"finetuned-{sparsity}-{epochs}.cell"
            if not path.exists():
                model = copy.deepcopy(dense)
                cell = finetune(model, case, sparsity, epochs) | {"accuracy": accuracy(model, test)}
                write_whole(path, json.dumps(cell).encode())
                print(cell, flush=True)
            cells[sparsity, epochs] = json.loads(path.read_text())
    rows: list[Row] = []
    for sparsity in sorted(SPARSITIES):
        found = [cells[sparsity, epochs] for epochs in EPOCHS]
        row: Row = {"sparsity": f"{sparsity:g}", "training images": found[0]["images"]}
        row |= {f"{cell['epochs']} epochs": cell["accuracy"] for cell in found}
        rows.append(row | {"seconds of an epoch": f"{found[-1]['seconds'] / found[-1]['epochs']:.0f}"})
    publish("strongest_finetuned", rows, SEED, document="docs/strongest.md")


if __name__ == "__main__":
    in_kept_folder(main)
