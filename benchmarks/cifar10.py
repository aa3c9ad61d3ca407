"""The public ResNet-20 and ResNet-32 on the full CIFAR-10 test set: dense, pruned, repaired.

    REFLOW_DATA=... python benchmarks/cifar10.py

Needs ``cifar-10-batches-py`` and ``weights/*.th`` (https://github.com/akamaster/pytorch_resnet_cifar10) in that folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tables import Row, configuration, data_folder, publish

from reflow_lightning.experiments.experiment import run

WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th"}
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
ONE_WEIGHT_FEWER = 214_668 / 268_336  # of ResNet-20 at 0.8, where round(0.8 * 268,336) = 214,669: it matters
SEED = 0


def measure(model: str, sparsity: float) -> Row:
    """One run of the experiment, by its configuration alone."""
    cfg = configuration(
        f"experiment=cifar10_{model}",
        f"ckpt={data_folder() / 'weights' / WEIGHTS[model]}",
        f"sparsity={sparsity}",
        f"seed={SEED}",
        "data.verify=false",
    )
    with tempfile.TemporaryDirectory() as folder:
        report = run(cfg, Path(folder))
    return {
        "network": model.replace("resnet", "ResNet-"),
        "sparsity": f"{sparsity:.7g}",
        **{state: report[state] for state in ("dense", "pruned", "repaired")},
        "multiply-adds left": report["cost"]["effective"] / report["cost"]["multiply_adds"],
    }


if __name__ == "__main__":
    rows = [measure("resnet20", sparsity) for sparsity in sorted((*SPARSITIES, ONE_WEIGHT_FEWER))]
    rows += [measure("resnet32", sparsity) for sparsity in SPARSITIES]
    publish("cifar10", rows, SEED, "docs/published.md")
