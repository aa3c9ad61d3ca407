"""Which pruning makes layers linear: ResNet-18 on CIFAR-10, pruned and retrained round by round.

    REFLOW_DATA=... python benchmarks/layer_collapse.py [FOLDER]

Needs ``cifar-10-batches-py`` in REFLOW_DATA. Takes about 50 minutes on one core. The network of every finished round is
kept in FOLDER, if one is given, so that a second run goes on from there; empty it after changing the recipe. Writes
docs/layer_collapse.md and its plot.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from layer_collapse_training import Augmented, Images, accuracy, load, train
from pictures import draw
from tables import Row, publish
from torch import nn
from torch.fx.experimental.optimization import fuse

from reflow_lightning import calibrate
from reflow_lightning.collapse import collapse
from reflow_lightning.cost.cost import measure_cost
from reflow_lightning.cost.latency import measure_latency
from reflow_lightning.experiments.models.resnet18 import ResNet18
from reflow_lightning.pruning import EntropyBudget, Masks, make_masks
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.running.files import read_tensors, write_tensors
from reflow_lightning.signal import measure_entropy

ARMS: dict[str, str | EntropyBudget] = {
    "magnitude": "global",
    "entropy": EntropyBudget(),
    "entropy, zero is off": EntropyBudget(zeros="off"),
    "entropy, all neurons": EntropyBudget(saturated=True),
    "entropy, both": EntropyBudget(zeros="off", saturated=True),
}
WIDTH = 16
EPOCHS, RATE = 40, 0.1  # of the dense network
ROUNDS, AMOUNT = 6, 0.5  # each round prunes half of the weights that are left
RETRAINING_EPOCHS, RETRAINING_RATE = 5, 0.05
UNPRUNED = ("fc.weight", "*.downsample.*")  # no rectifier follows them directly, and the paper leaves them
CALIBRATION_BATCHES = 20
COLLAPSE_BATCHES = 4  # on which every step of `collapse` is checked; the result is compared on all test images
SEED = 0


def network() -> nn.Module:
    """The network before its training."""
    torch.manual_seed(SEED)
    return ResNet18(width=WIDTH).to(memory_format=torch.channels_last)


def dense_network(folder: Path, images: Images) -> nn.Module:
    """The trained network; from the folder if it is there."""
    model, path = network(), folder / "dense.pt"
    if not path.exists():
        train(model, Augmented(images), EPOCHS, RATE)
        write_tensors(path, model.state_dict())
    model.load_state_dict(read_tensors(path))
    return model.eval()


def next_round(model: nn.Module, arm: str, number: int, previous: Masks | None, images: Images) -> Masks:
    """Prune, calibrate and retrain in place."""
    torch.manual_seed(SEED + number)
    batches = images.batches()
    masks = make_masks(
        model,
        1 - (1 - AMOUNT) ** number,
        allocation=ARMS[arm],
        exclude=UNPRUNED,
        previous=previous,
        batches=batches,
        max_batches=len(batches),
    )
    masks.apply(model)
    calibrate(model, Augmented(images), max_batches=CALIBRATION_BATCHES, progress=False)
    train(model, Augmented(images), RETRAINING_EPOCHS, RETRAINING_RATE, masks)
    return masks


@torch.no_grad()
def measured(model: nn.Module, arm: str, number: int, sparsity: float, splits: dict[str, Images]) -> Row:
    """What is said of a network after its retraining, and of what `collapse` makes of it.

    The speed-up is over the same network with its BatchNorm layers folded, the difference that of the outputs on all
    test images.
    """
    batches, test = splits["train"].batches(), splits["test"].batches()
    entropies = measure_entropy(model, batches, max_batches=len(batches), progress=False)
    sample = test[0][0][:1]
    collapsed = collapse(model, sample, batches=batches, max_batches=COLLAPSE_BATCHES)
    costs = measure_cost(model, sample), measure_cost(collapsed, sample)
    return {
        "allocation": arm,
        "round": number,
        "sparsity": sparsity,
        "accuracy": accuracy(model, splits["test"]),
        "lowest entropy": f"{min(row.switching_entropy for row in entropies.rows):.3f}",
        "never switch": len(entropies.linear),
        "rectifiers removed": _rectifiers(model) - _rectifiers(collapsed),
        "layers removed": len(costs[0].layers) - len(costs[1].layers),
        "multiply-adds left": costs[1].multiply_adds / costs[0].multiply_adds,
        "times as fast": f"{measure_latency(fuse(model), collapsed, test[0][0][:128]).speedup:.2f}",
        "difference": f"{max(relative_difference(model(inputs), collapsed(inputs)) for inputs, _ in test):.0e}",
    }


def _rectifiers(model: nn.Module) -> int:
    return sum(isinstance(module, nn.ReLU) for module in model.modules())


def measure(folder: Path) -> list[Row]:
    """A row for the dense network and for each round of every arm; what the folder holds is not trained again."""
    splits = load()
    rows = [measured(dense_network(folder, splits["train"]), "dense", 0, 0.0, splits)]
    print(rows[-1], flush=True)
    for index, arm in enumerate(ARMS):
        model = dense_network(folder, splits["train"])
        masks: Masks | None = None
        for number in range(1, ROUNDS + 1):
            path = folder / f"{index}_{number}.pt"
            if not path.exists():
                masks = next_round(model, arm, number, masks, splits["train"])
                write_tensors(path, {"model": model.state_dict(), "masks": masks.state_dict()})
            kept = read_tensors(path)
            model.load_state_dict(kept["model"])
            masks = Masks.from_state_dict(kept["masks"])
            rows.append(measured(model.eval(), arm, number, masks.sparsity, splits))
            print(rows[-1], flush=True)
    return rows


def main(folder: Path) -> None:
    """Measure everything and write the page."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure(folder)
    publish("layer_collapse", rows, SEED, "docs/layer_collapse.md")
    draw("layer_collapse")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
