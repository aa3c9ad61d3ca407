"""A network with LayerNorm that loses nearly all weights: what moments can win back, and what else does.

    python benchmarks/strongest_mlp.py

Three hidden layers of 256 units with LayerNorm and ReLU on digits, pruned once by magnitude, with one ranking over all
layers or with LAMP, and repaired with 512 training images. Three seeds train the network and choose the images. Two
minutes on a core.
"""

from __future__ import annotations

import copy
import warnings
from statistics import mean, stdev
from typing import Any

import torch
from sklearn.datasets import load_digits
from tables import Row, publish
from torch import Tensor, nn

from reflow_lightning import Pruner, measure_signal

SEEDS, SPARSITIES = (0, 1, 2), (0.9, 0.95, 0.98)
IMAGES, BATCH = 512, 64
ARMS: dict[str, dict[str, Any]] = {
    "none": {"repair": "none"},
    "moments": {"repair": "moments"},
    "reconstruct": {"repair": "reconstruct"},
    "reselect": {"repair": "reselect"},
    "align": {"repair": ["reconstruct", "align"]},
    "best": {"repair": "best", "budget": "1min"},
}


def mlp() -> nn.Sequential:
    """The network."""
    layers: list[nn.Module] = []
    for inputs in (64, 256, 256):
        layers += [nn.Linear(inputs, 256), nn.LayerNorm(256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and classes, and those of the test: 1,297 and 500."""
    images, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(classes)[order]
    return x[500:], y[500:], x[:500], y[:500]


def trained(x: Tensor, y: Tensor) -> nn.Sequential:
    """The network after 60 epochs of AdamW."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 0.003, weight_decay=0.05)
    for _ in range(60):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of the images whose class has the largest logit."""
    return float((model(x).argmax(1) == y).double().mean())


def measure(allocation: str, sparsity: float, networks: list[nn.Sequential]) -> Row:
    """A row: means and deviations over the seeds."""
    x, _, test_x, test_y = digits()
    row: Row = {"allocation": allocation, "sparsity": f"{sparsity:g}"}
    found: dict[str, list[float]] = {"dense": [accuracy(model, test_x, test_y) for model in networks]}
    signal = []
    for seed, dense in zip(SEEDS, networks, strict=True):
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:IMAGES]
        batches = list(x[chosen].split(BATCH))
        for arm, how in ARMS.items():
            model = copy.deepcopy(dense)
            arguments = {"allocation": allocation, "monitor": False, "calibration_batches": len(batches), "seed": seed}
            Pruner(sparsity, **arguments, **how).apply(model, batches)
            found.setdefault(arm, []).append(accuracy(model, test_x, test_y))
            if arm == "moments":
                signal.append(measure_signal(model, batches, reference=dense, max_batches=len(batches)).rows[-1].cosine)
    row |= {arm: f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}" for arm, values in found.items()}
    return row | {"cosine of the logits after moments": f"{mean(signal):.2f}"}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    networks = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        networks.append(trained(*digits()[:2]))
    rows = [measure(allocation, sparsity, networks) for allocation in ("global", "lamp") for sparsity in SPARSITIES]
    publish("strongest_mlp", rows, SEEDS[0], document="docs/strongest.md")
