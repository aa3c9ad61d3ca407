"""What is done once in a search for the sparsest network, and what removing dead channels costs in forward passes."""

from __future__ import annotations

from collections import Counter
from functools import partial

import torch
from paired import by_turns
from tables import Row
from torch import Tensor, nn
from torchvision import models

from reflow_lightning import collapse, find_sparsity, prune
from speed_cases.floors import bytes_per_second
from speed_cases.row import row

TITLE = "find_sparsity and collapse"
NETWORKS = {"ResNet-50": models.resnet50, "MobileNet-V2": models.mobilenet_v2}
SIZE, IMAGES, SPARSITY, TURNS = 96, 8, 0.9, 3


def rows() -> list[Row]:
    """Both networks."""
    return [line for name in NETWORKS for line in (_searched(name), _collapsed(name))]


def _searched(name: str) -> Row:
    """How often weights are scored in a search, and what the trials cost beside one pruning and one repair each."""
    asked: Counter[str] = Counter()

    def magnitude(weight_name: str, weight: Tensor) -> Tensor:
        asked[weight_name] += 1
        return weight.abs()

    def evaluate(trained: nn.Module) -> float:  # stands for an accuracy
        return 1 - sum(int((p == 0).sum()) for p in trained.parameters() if p.ndim > 1) / 25e6

    model = NETWORKS[name]()
    batches = [torch.randn(IMAGES, 3, SIZE, SIZE)]
    search = find_sparsity(
        model, batches, evaluate, max_drop=0.6, coarse=(0.5, 0.8), tolerance=0.1, criterion=magnitude, max_batches=1
    )
    most = max(asked.values())
    seconds = sum(trial.seconds for trial in search.trials)
    return row(
        f"find_sparsity, {name}: how often a weight is scored",
        f"{most} in {len(search.trials)} trials, {seconds:.1f} s",
        f"{most / len(search.trials):.2f}",
        "once in each trial",
        "1",
        "once",
        most == 1,
    )


def _collapsed(name: str) -> Row:
    """Removing dead channels of a pruned network, in forward passes of the example."""
    model = NETWORKS[name]().eval()
    prune(model, SPARSITY)
    example = torch.randn(IMAGES, 3, SIZE, SIZE)
    with torch.no_grad():
        times = by_turns({"collapse": partial(collapse, model, example), "forward": partial(model, example)}, TURNS)
    ratio = times.ratio("collapse", "forward")
    weights = sum(p.numel() * 4 for p in model.parameters())
    return row(
        f"collapse, {name}, {SPARSITY:.0%} pruned, {IMAGES} images of {SIZE}x{SIZE}",
        f"{times.median('collapse'):.1f} s",
        times.spread("collapse", "forward"),
        f"one forward pass: {times.median('forward'):.2f} s",
        f"{2 * weights / bytes_per_second():.3f} s, a copy of the weights",
        "<= 10",
        ratio <= 10,
        "" if ratio <= 10 else NOTE.format(ratio / 10),
    )


NOTE = (
    "{:.1f} times the target: each step that is taken is checked on the example, on noise like it and on one and two "
    "samples, 2.4 passes; tracing, shapes and the reference take 8 passes; the bounds are convolutions in float64; "
    "where not all channels can go together, each layer is tried by itself"
)
