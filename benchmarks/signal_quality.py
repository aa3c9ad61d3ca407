"""Where the signal of a repaired network is strong but wrong: the public ResNet-20 on CIFAR-10, 90 % of it pruned.

    REFLOW_DATA=... python benchmarks/signal_quality.py

Needs ``cifar-10-batches-py`` and ``weights/resnet20-12fca82f.th`` (https://github.com/akamaster/pytorch_resnet_cifar10)
in that folder. Writes ``docs/strong_but_wrong.png`` and prints the table behind it.
"""

from __future__ import annotations

import copy

import torch
from tables import ROOT, data_folder

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.data.cifar10 import CIFAR10DataModule
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.signal import SignalReport, plot_quality, strong_but_wrong

SPARSITY = 0.9
CALIBRATION_BATCHES = 50
MEASURED_BATCHES = 16  # of 128 test images
SEED = 0
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # what the public weights were trained with


def reports() -> dict[str, SignalReport]:
    """The signal on test images after pruning and after the repair, beside that of the dense network."""
    torch.manual_seed(SEED)
    data = CIFAR10DataModule(data_folder(), verify=False, download=False, **IMAGENET)
    data.setup()
    model = ResNet(blocks=3).eval()
    load_weights(model, data_folder() / "weights" / "resnet20-12fca82f.th")
    dense = copy.deepcopy(model)
    found = {}

    def measure(state: str) -> None:
        found[state] = measure_signal(model, data.test_dataloader(), reference=dense, max_batches=MEASURED_BATCHES)

    measure("dense")
    prune(model, SPARSITY)
    measure("pruned")
    calibrate(model, data.calibration_dataloader(), max_batches=CALIBRATION_BATCHES)
    measure("repaired")
    return found


if __name__ == "__main__":
    found = reports()
    for state, report in found.items():
        print(state, report, sep="\n", end="\n\n")
    print("strong but wrong:", ", ".join(strong_but_wrong(found["repaired"])))
    title = f"ResNet-20 on CIFAR-10, {SPARSITY:.0%} pruned"
    figure = plot_quality({state: found[state] for state in ("pruned", "repaired")}, title)
    figure.savefig(ROOT / "docs" / "strong_but_wrong.png", dpi=100)
