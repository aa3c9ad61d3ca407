"""Rank 83 M weights, side by side with ``torch.nn.utils.prune.global_unstructured``, in one process.

    python -m pip install ".[vision]" && python benchmarks/ranking.py

Prints seconds and extra memory; exits with 1 if ranking is less than 20 times faster or needs over 10 % of the weights.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median

import torch
import torchvision
from torch import nn
from torch.nn.utils import prune as torch_prune

from reflow_lightning import prune
from reflow_lightning.pruning import Magnitude, Scores, select
from reflow_lightning.pruning.ranking import rank

SPARSITY, SEED, REPEATS = 0.8, 0, 5


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(function: Callable[[], object]) -> tuple[float, int]:
    """Seconds taken, and memory beyond what was ever held before."""
    before, start = peak_bytes(), time.perf_counter()
    function()
    return time.perf_counter() - start, peak_bytes() - before


def resnext() -> nn.Module:
    """ResNeXt-101 64x4d with random weights, made tensor by tensor so that nothing larger was ever held."""
    with torch.device("meta"):
        model = torchvision.models.resnext101_64x4d()
    model = model.to_empty(device="cpu")
    torch.manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def main() -> int:
    """Measure and print."""
    model = resnext()
    scores = [Scores(name, weight.detach(), Magnitude()) for name, weight in select(model).items()]
    total = sum(s.weight.numel() for s in scores)
    keep = total - round(SPARSITY * total)
    rank(scores[:1], 1)  # loads what torch loads at its first call
    ranking, ranking_memory = measure(lambda: rank(scores, keep))
    ranking = median([ranking, *(measure(lambda: rank(scores, keep))[0] for _ in range(REPEATS - 1))])
    whole, whole_memory = measure(lambda: prune(model, SPARSITY))
    layers = [(m, "weight") for m in resnext().modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    theirs, theirs_memory = measure(
        lambda: torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=SPARSITY)
    )
    weights = 4 * total
    print(f"{total:,} weights ({weights / 2**20:.0f} MiB), sparsity {SPARSITY}, seed {SEED}; {platform.platform()}")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads\n")
    print(f"{'':<34}{'seconds':>9}{'extra MiB':>11}{'faster':>8}")
    for name, seconds, memory in (
        ("rank (median of 5)", ranking, ranking_memory),
        ("prune: rank, mask, apply", whole, whole_memory),
        ("torch global_unstructured", theirs, theirs_memory),
    ):
        print(f"{name:<34}{seconds:>9.2f}{memory / 2**20:>11.1f}{theirs / seconds:>7.1f}x")
    return 0 if theirs / ranking >= 20 and ranking_memory < 0.1 * weights else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
