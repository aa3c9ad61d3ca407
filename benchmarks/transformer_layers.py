"""How many rectifiers of a transformer come to rest, round by round: sentences of SST-2, and images of CIFAR-10.

    REFLOW_DATA=... python benchmarks/transformer_layers.py [FOLDER]

Each round of *magnitude* and of *entropy* prunes half of the weights that are left in the layers before a GELU. Each
round of *removal* turns the GELU that switches least into the identity, as the scripts of arXiv 2404.16890 do. Two
epochs of training follow. Finished arms are kept in FOLDER, if one is given. About half an hour on one core. Writes a
table into docs/language.md.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from layer_collapse_training import Augmented, load
from tables import Row, configuration, data_folder, in_kept_folder, publish
from torch import nn
from torch.nn import functional

from reflow_lightning import Masks, collapse
from reflow_lightning.cost import measure_cost
from reflow_lightning.experiments.models.vit import VisionTransformer
from reflow_lightning.pruning import make_masks
from reflow_lightning.rounds import remove_rectifier
from reflow_lightning.running.files import write_whole
from reflow_lightning.running.forward import default_forward
from reflow_lightning.signal import measure_entropy

SEED = 0
BLOCKS = 4
ARMS = ("magnitude", "entropy", "removal")
AMOUNT, EPOCHS, RATE, WEIGHT_DECAY = 0.5, 2, 1e-3, 0.1  # of each round
BATCHES = 20  # that entropies are measured on, and rectifiers chosen by


@dataclass(frozen=True)
class Case:
    """A dense network with its data.

    Attributes:
        name: As the table calls it.
        net: Trained.
        train: Training batches, in a new order each time.
        test: All test batches.
        before_gelu: Globs of the weights that are pruned: of the layers that a GELU follows.
    """

    name: str
    net: nn.Module
    train: Iterable[Any]
    test: Sequence[Any]
    before_gelu: tuple[str, ...]

    def calibration(self) -> list[Any]:
        """Training batches, each time the same."""
        torch.manual_seed(SEED)
        return list(islice(self.train, BATCHES))


def fit(net: nn.Module, batches: Iterable[Any], epochs: int, rate: float, kept: Iterable[Masks] = ()) -> None:
    """Train with AdamW in bfloat16, under a cosine; what the masks prune stays zero."""
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    handles = [masks.keep(net, optimizer) for masks in kept]
    net.train()
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(default_forward(net, batch).float(), batch[1])
            loss.backward()
            optimizer.step()
        schedule.step()
    for handle in handles:
        handle.remove()
    net.eval()


def sentences() -> Case:
    """SST-2 with the text transformer of this package."""
    cfg = configuration("experiment=sst2_text_transformer", f"model.depth={BLOCKS}")
    pl.seed_everything(SEED, verbose=False)
    data: pl.LightningDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    net, train, test = instantiate(cfg.model), data.train_dataloader(), list(data.test_dataloader())
    fit(net, train, 8, RATE)
    return Case("transformer, SST-2", net, train, test, ("*.linear1.weight",))


def images() -> Case:
    """CIFAR-10 with the vision transformer of this package."""
    splits = load()
    torch.manual_seed(SEED)
    net, train = VisionTransformer(depth=BLOCKS), Augmented(splits["train"])
    fit(net, train, 15, RATE)
    return Case("vision transformer, CIFAR-10", net, train, splits["test"].batches(), ("*.fc1.weight",))


@torch.no_grad()
def measured(case: Case, net: nn.Module, arm: str, number: int) -> Row:
    """A row of the table: the network after its training, and what `collapse` makes of it."""
    batches = case.calibration()
    example = batches[0][0]
    hits = torch.cat([default_forward(net, batch).argmax(1) == batch[1] for batch in case.test])
    smaller = collapse(net, example, batches=batches[:2])
    before, after = measure_cost(net, example), measure_cost(smaller, example)
    some_left = any(isinstance(module, nn.GELU) for module in net.modules())
    rows = measure_entropy(net, batches, progress=False).rows if some_left else ()
    switching = [row.switching_entropy for row in rows]
    return {
        "network": case.name,
        "rounds of": arm,
        "round": number,
        "accuracy": float(hits.double().mean()),
        "GELUs that switch": sum(value > 0 for value in switching),
        "lowest entropy": f"{min(switching):.3f}" if switching else "",
        "multiply-adds left": after.multiply_adds / before.multiply_adds,
        "parameters left": after.parameters / before.parameters,
    }


def rounds(case: Case, arm: str) -> list[Row]:
    """As many rounds as there are blocks, from the dense network."""
    net, rows, removed = copy.deepcopy(case.net), [], []
    masks: Masks | None = None
    for number in range(1, BLOCKS + 1):
        if arm == "removal":
            removed.append(remove_rectifier(net, case.calibration(), progress=False).masks)
        else:
            masks = make_masks(
                net,
                1 - (1 - AMOUNT) ** number,
                allocation="entropy" if arm == "entropy" else "global",
                include=case.before_gelu,
                previous=masks,
                batches=case.calibration(),
                max_batches=BATCHES,
            )
            masks.apply(net)
        torch.manual_seed(SEED + number)
        fit(net, case.train, EPOCHS, RATE, removed if masks is None else [masks])
        rows.append(measured(case, net, arm, number))
    return rows


def main(folder: Path) -> None:
    """Train the dense networks, go through the rounds, write the table."""
    data_folder()  # or an explanation, before anything is trained
    rows: list[Row] = []
    for make in (functools.cache(sentences), functools.cache(images)):
        for arm in ("dense", *ARMS):
            kept = folder / f"{make.__wrapped__.__name__}_{arm}.json"
            if not kept.exists():
                found = rounds(make(), arm) if arm in ARMS else [measured(make(), make().net, arm, 0)]
                write_whole(kept, json.dumps(found).encode())
            rows += json.loads(kept.read_text())
    publish("transformer_layers", rows, SEED, document="docs/language.md")


if __name__ == "__main__":
    in_kept_folder(main)
