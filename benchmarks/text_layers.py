"""How many rectifiers of a transformer come to rest, round by round: SST-2 with four blocks.

    REFLOW_DATA=... python benchmarks/text_layers.py

Each round of *magnitude* and of *entropy* prunes half of the weights that are left in the feed-forward layers. Each
round of *removal* turns the GELU that switches least into the identity, as the scripts of arXiv 2404.16890 do. Two
epochs of training follow. Ten minutes on one core. Writes a table into docs/language.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from tables import Row, configuration, data_folder, publish
from torch import nn
from torch.nn import functional

from reflow_lightning import Masks, collapse
from reflow_lightning.cost import measure_cost
from reflow_lightning.pruning import make_masks
from reflow_lightning.rounds import remove_rectifier
from reflow_lightning.running.forward import default_forward
from reflow_lightning.signal import measure_entropy

SEED = 0
ROUNDS, AMOUNT, EPOCHS, RATE = 4, 0.5, 2, 1e-3
DENSE_EPOCHS, DENSE_RATE, WEIGHT_DECAY = 4, 2e-3, 0.1
FEED_FORWARD = ("*.linear1.weight", "*.linear2.weight")
BATCHES = 20


def train(net: nn.Module, data: pl.LightningDataModule, epochs: int, rate: float, kept: Iterable[Masks] = ()) -> None:
    """Train with AdamW under a cosine; what the masks prune stays zero."""
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=WEIGHT_DECAY)
    loader = data.train_dataloader()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    handles = [masks.keep(net, optimizer) for masks in kept]
    net.train()
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            functional.cross_entropy(default_forward(net, batch), batch[1]).backward()
            optimizer.step()
            schedule.step()
    for handle in handles:
        handle.remove()
    net.eval()


def calibration(data: pl.LightningDataModule) -> list[Any]:
    """The first batches of the calibration loader, in an order of their own for the seed."""
    torch.manual_seed(SEED)
    return [batch for _, batch in zip(range(BATCHES), data.calibration_dataloader(), strict=False)]


@torch.no_grad()
def measured(net: nn.Module, data: pl.LightningDataModule, arm: str, number: int, zeros: float) -> Row:
    """What is said of a network after its training, and of what `collapse` makes of it."""
    test, batches = list(data.test_dataloader()), calibration(data)
    example = batches[0][0]
    hits = torch.cat([default_forward(net, batch).argmax(1) == batch[1] for batch in test])
    collapsed = collapse(net, example, batches=batches[:2])
    costs = measure_cost(net, example), measure_cost(collapsed, example)
    try:
        lowest = f"{min(row.switching_entropy for row in measure_entropy(net, batches, progress=False).rows):.3f}"
    except ValueError:  # no rectifier is left
        lowest = ""
    return {
        "rounds of": arm,
        "round": number,
        "zeros of the feed-forward layers": zeros,
        "accuracy": float(hits.double().mean()),
        "GELUs left": sum(isinstance(module, nn.GELU) for module in net.modules()),
        "lowest entropy": lowest,
        "multiply-adds left by collapse": costs[1].multiply_adds / costs[0].multiply_adds,
        "parameters left by collapse": costs[1].parameters / costs[0].parameters,
    }


def zeros_of(net: nn.Module) -> float:
    """Share of the weights of the feed-forward layers that are zero."""
    weights = [p for name, p in net.named_parameters() if "linear" in name and p.ndim == 2]
    return float(sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights))


def rounds(dense: nn.Module, data: pl.LightningDataModule, arm: str) -> list[Row]:
    """The rounds of one arm, from the dense network."""
    net, rows = copy.deepcopy(dense), []
    masks: Masks | None = None
    removed: list[Masks] = []
    for number in range(1, ROUNDS + 1):
        torch.manual_seed(SEED + number)
        if arm == "removal":
            removed.append(remove_rectifier(net, calibration(data), progress=False).masks)
        else:
            how: dict[str, Any] = {"allocation": "entropy" if arm == "entropy" else "global", "include": FEED_FORWARD}
            target = 1 - (1 - AMOUNT) ** number
            masks = make_masks(net, target, previous=masks, batches=calibration(data), max_batches=BATCHES, **how)
            masks.apply(net)
        train(net, data, EPOCHS, RATE, removed if masks is None else [masks])
        rows.append(measured(net, data, arm, number, zeros_of(net)))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Train the dense network, go through the rounds, write the table."""
    data_folder()  # or an explanation, before anything is trained
    cfg = configuration("experiment=sst2_text_transformer", "model.depth=4")
    pl.seed_everything(SEED, verbose=False)
    data: pl.LightningDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    net = instantiate(cfg.model)
    train(net, data, DENSE_EPOCHS, DENSE_RATE)
    rows = [measured(net, data, "dense", 0, zeros_of(net))]
    print(rows[-1], flush=True)
    for arm in ("magnitude", "entropy", "removal"):
        rows += rounds(net, data, arm)
    publish("text_layers", rows, SEED, document="docs/language.md")


if __name__ == "__main__":
    main()
