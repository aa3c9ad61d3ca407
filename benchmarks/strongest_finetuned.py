"""How much of a training with labels a repair without them replaces: the same masks, fine-tuned.

    REFLOW_DATA=... python benchmarks/strongest_finetuned.py [FOLDER]

The published ResNet-20 of `strongest.py`, pruned once by global magnitude and not repaired, then trained with labels on
the images that lie in REFLOW_DATA but for the validation, under the mask: SGD with momentum 0.9, weight decay 1e-4, a
learning rate that falls from 0.02 to 0 by a cosine, for 1, 5 and 20 epochs. Finished cells are kept in FOLDER, if one
is given. About a minute an epoch on a core. Writes a table of docs/strongest.md, by Ctrl-C of what there is.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from strongest import SEEDS, accuracy, claimed
from strongest_networks import Published, published
from tables import Row, in_kept_folder, publish
from torch import nn

from reflow_lightning import Pruner
from reflow_lightning.running.files import write_whole

TARGETS, EPOCHS = ("0.9", "0.95"), (1, 5, 20)


def finetune(model: nn.Module, case: Published, masks: Any, epochs: int) -> None:
    """Train under the masks."""
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=1e-4)
    loader = case.data.train_dataloader()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    with masks.keep(model, optimizer):
        model.train()
        for _ in range(epochs):
            for images, classes in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), classes).backward()
                optimizer.step()
                scheduler.step()


def cell(case: Published, dense: nn.Module, test: list[Any], target: str, seed: int, epochs: int) -> dict[str, Any]:
    """One fine-tuning: its accuracy and its time."""
    model = copy.deepcopy(dense)
    pruner = Pruner(float(target), repair="none", exclude=case.exclude, monitor=False)
    pruner.apply(model, [])
    torch.manual_seed(seed)
    start = time.perf_counter()
    finetune(model, case, pruner.masks, epochs)
    return {"accuracy": accuracy(model, test), "seconds": time.perf_counter() - start}


def main(folder: Path) -> None:
    """Fill what is missing, and write the table."""
    warnings.simplefilter("ignore")
    case = published()[0]
    case.data.setup()
    dense, test = case.load(case.data), list(case.data.test_dataloader())
    try:
        for seed, epochs, target in [(s, e, t) for s in SEEDS for e in EPOCHS for t in TARGETS]:
            path = folder / f"finetuned-{target}-{epochs}-{seed}.json"
            if claimed(path):
                continue
            try:
                found = cell(case, dense, test, target, seed, epochs)
            except BaseException:
                path.with_name(f"{path.name}.claimed").unlink()
                raise
            found |= {"target": target, "epochs": epochs, "seed": seed}
            write_whole(path, json.dumps(found).encode())
            print(found, flush=True)
    finally:
        publish(
            "strongest_finetuned", rows(folder, len(case.data.splits["train"])), seed=0, document="docs/strongest.md"
        )


def rows(folder: Path, images: int) -> list[Row]:
    """A row for each sparsity and length: the mean over the seeds, whose number is in brackets."""
    cells = [json.loads(path.read_text()) for path in sorted(folder.glob("finetuned-*.json"))]
    found: list[Row] = []
    for target, epochs in [(t, e) for t in TARGETS for e in EPOCHS]:
        here = [cell for cell in cells if (cell["target"], cell["epochs"]) == (target, epochs)]
        if here:
            mean = sum(cell["accuracy"] for cell in here) / len(here)
            seconds = sorted(cell["seconds"] for cell in here)[len(here) // 2]
            what = {"sparsity": target, "labelled images": images, "epochs": epochs}
            found.append({**what, "top-1, %": f"{100 * mean:.2f} ({len(here)})", "seconds": f"{seconds:.0f}"})
    return found


if __name__ == "__main__":
    in_kept_folder(main)
