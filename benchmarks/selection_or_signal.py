"""Selection or signal? Each way to choose weights with each way to repair: the public ResNet-20 on CIFAR-10.

    REFLOW_DATA=... python benchmarks/selection_or_signal.py [FOLDER]

Needs ``cifar-10-batches-py`` and ``weights/resnet20-12fca82f.th`` (https://github.com/akamaster/pytorch_resnet_cifar10)
in REFLOW_DATA. Takes about an hour on two cores. Finished cells are kept in FOLDER, if one is given, so that a second
run goes on from there. Writes docs/selection_or_signal.md and its plot.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pictures import draw
from tables import Row, data_folder, publish
from torch import nn

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import BatchNormStatistics, Moments, Reconstruct, Repair
from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.data.cifar10 import CIFAR10DataModule
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.pruning import AnyCriterion, Wanda
from reflow_lightning.running.files import write_whole

CRITERIA: dict[str, AnyCriterion] = {
    **{name: name for name in ("magnitude", "random", "fisher", "taylor", "snip")},
    "wanda": Wanda("all"),  # ranked over all layers like the others
    "woodfisher": "woodfisher",
}
REPAIRS: dict[str, Repair] = {"REFLOW": BatchNormStatistics(), "moments": Moments(), "reconstruct": Reconstruct()}
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
BATCHES = 8  # of 128 training images, augmented: for the criterion and for every repair
IMAGES = 2000  # of the test set
SEED = 0
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # what the public weights were trained with


@torch.no_grad()
def accuracy(model: nn.Module, test: list[Any]) -> float:
    """Share of the test images whose class has the largest logit."""
    model.eval()
    hits = torch.cat([model(inputs).argmax(1) == classes for inputs, classes in test])
    return float(hits.double().mean())


def cell(dense: nn.Module, criterion: str, sparsity: float, batches: list[Any], test: list[Any]) -> Row:
    """The accuracies of one mask, without repair and with each."""
    pruned = copy.deepcopy(dense)
    torch.manual_seed(SEED)
    prune(pruned, sparsity, criterion=CRITERIA[criterion], batches=batches, max_batches=BATCHES)
    row: Row = {"criterion": criterion, "sparsity": f"{sparsity:g}", "none": accuracy(pruned, test)}
    for name, repair in REPAIRS.items():
        model = copy.deepcopy(pruned)
        calibrate(model, batches, repair=repair, reference=dense, max_batches=BATCHES, progress=False)
        row[name] = accuracy(model, test)
    calibrate(model, batches, repair="batchnorm", max_batches=BATCHES, progress=False)  # the last one, once more
    row["reconstruct + REFLOW"] = accuracy(model, test)
    return row


def measure(folder: Path) -> list[Row]:
    """All cells; those that the folder holds are not run again."""
    torch.manual_seed(SEED)
    data = CIFAR10DataModule(data_folder(), verify=False, download=False, **IMAGENET)
    data.setup()
    dense = ResNet(blocks=3).eval()
    load_weights(dense, data_folder() / "weights" / "resnet20-12fca82f.th")
    batches = list(islice(data.calibration_dataloader(), BATCHES))
    test, seen = [], 0
    for inputs, classes in data.test_dataloader():
        test.append((inputs[: IMAGES - seen], classes[: IMAGES - seen]))
        seen += len(classes)
        if seen >= IMAGES:
            break
    print(f"dense {100 * accuracy(dense, test):.2f}", flush=True)
    rows = []
    for criterion in CRITERIA:
        for sparsity in SPARSITIES:
            path = folder / f"{criterion}_{sparsity}.json"
            if not path.exists():
                row = cell(dense, criterion, sparsity, batches, test)
                write_whole(path, json.dumps(row).encode())
            rows.append(json.loads(path.read_text()))
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
    publish("selection_or_signal", rows, SEED, "docs/selection_or_signal.md")
    draw("selection_or_signal")
