"""How time grows with the number of weights, of layers and of batches: a straight line of slope 1 is linear.

    python -m pip install ".[test]" && python benchmarks/speed_scaling.py

Ranks and masks up to a billion bfloat16 weights that lie in a file, mapped into memory, in bounded memory; collapses
and prunes networks of up to 64 layers; calibrates on up to 64 batches. Prints the slopes, and writes
``results/speed_scaling.json`` and ``docs/speed_scaling.png``.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from peak import peak_bytes
from pictures import draw
from tables import markdown, record
from torch import nn

from reflow_lightning import calibrate, collapse, prune
from reflow_lightning.pruning import Magnitude, Scores
from reflow_lightning.pruning.ranking import cut_mask, rank

SEED, SPARSITY, PIECE = 0, 0.8, 1 << 24


def mapped_weights(path: Path, size: int) -> list[torch.Tensor]:
    """bfloat16 weights in tensors of 16 M, in a file that is written piece by piece."""
    generator = torch.Generator().manual_seed(SEED)
    piece = torch.randn(min(size, PIECE), generator=generator).bfloat16()
    with path.open("wb") as file:
        for start in range(0, size, PIECE):
            part = piece[: min(PIECE, size - start)] * (1 + start / size)  # other values in each
            file.write(part.view(torch.uint8).numpy().tobytes())
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.bfloat16)
    return list(whole.split(PIECE))


def ranked(size: int) -> tuple[float, float]:
    """Seconds for the cuts and all masks; and how much memory the cuts take at most, in MiB, in a second run."""
    with tempfile.TemporaryDirectory() as folder:
        scores = [Scores(str(i), w, Magnitude()) for i, w in enumerate(mapped_weights(Path(folder) / "w", size))]
        keep, start = size - round(SPARSITY * size), time.perf_counter()
        cuts = rank(scores, keep)
        # a mask at a time: all together would take a byte a weight
        kept = sum(int(cut_mask(one, cut).count_nonzero()) for one, cut in zip(scores, cuts, strict=True))
        seconds = time.perf_counter() - start
        if kept != keep:
            raise SystemExit(f"{kept} of {size} weights stayed, {keep} were asked for")
        return seconds, peak_bytes(lambda: rank(scores, keep)) / 2**20


def network(layers: int) -> nn.Module:
    """Convolutions with BatchNorm and rectifiers."""
    blocks = [m for _ in range(layers) for m in (nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


def timed(function: Callable[[], object], repeats: int = 3) -> float:
    """The least of several seconds."""

    def seconds() -> Iterator[float]:
        for _ in range(repeats):
            start = time.perf_counter()
            function()
            yield time.perf_counter() - start

    return min(seconds())


def collapsed(layers: int) -> float:
    """Seconds to collapse a pruned network."""
    model = network(layers)
    prune(model, SPARSITY, allocation="uniform")
    return timed(lambda: collapse(model, torch.randn(2, 16, 8, 8)))


def pruned(layers: int) -> float:
    """Seconds to prune."""
    model = network(layers)
    return timed(lambda: prune(model, SPARSITY, allocation="uniform"))


def calibrated(batches: int) -> float:
    """Seconds of `calibrate`."""
    model, read = network(8), [torch.randn(16, 16, 16, 16) for _ in range(batches)]
    return timed(lambda: calibrate(model, read, repair="batchnorm", max_batches=batches, progress=False))


def slope(times: Mapping[int, float]) -> float:
    """Of the straight line through the upper half of the points, where fixed costs matter least; both as logarithms."""
    points = [(math.log(size), math.log(seconds)) for size, seconds in times.items()]
    upper = points[len(points) // 2 :] if len(points) > 3 else points
    x, y = (sum(values) / len(upper) for values in zip(*upper, strict=True))
    return sum((a - x) * (b - y) for a, b in upper) / sum((a - x) ** 2 for a, _ in upper)


def main() -> None:
    """Measure, draw and print."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    ranked(1 << 22)  # loads what torch loads at its first call
    by_weights = {size: ranked(size) for size in (10**6, 10**7, 10**8, 10**9)}
    found: dict[str, tuple[str, Mapping[int, float]]] = {
        "rank and mask": ("weights (bfloat16)", {size: seconds for size, (seconds, _) in by_weights.items()}),
        "collapse": ("layers", {layers: collapsed(layers) for layers in (4, 8, 16, 32, 64)}),
        "prune": ("layers", {layers: pruned(layers) for layers in (4, 8, 16, 32, 64)}),
        "calibrate": ("batches", {batches: calibrated(batches) for batches in (4, 8, 16, 32, 64)}),
    }
    rows = [
        {"what": name, "of": unit, "from": min(times), "to": max(times), "slope": f"{slope(times):.2f}"}
        | {"seconds": " ".join(f"{seconds:.3g}" for seconds in times.values())}
        | {"MiB at most": f"{by_weights[10**9][1]:.0f}" if name == "rank and mask" else ""}
        for name, (unit, times) in found.items()
    ]
    record("speed_scaling", rows, SEED)
    draw("speed_scaling")
    print(markdown(rows))


if __name__ == "__main__":
    main()
