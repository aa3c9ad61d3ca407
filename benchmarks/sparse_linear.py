"""How much faster linear layers with a sparse weight are on one thread, and the networks that they are in.

    python benchmarks/sparse_linear.py

Weights are random and pruned by magnitude, each layer alike, since values make no difference to the time. It takes ten
minutes or so, and writes the tables of docs/sparse_linear.md.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tables import ROOT, Row, caption, markdown, put, record
from torch import nn

from reflow_lightning import prune
from reflow_lightning.cost import paired_latency, save_sparse, sparse_linear, sparse_report
from reflow_lightning.cost.latency import busy_clock
from reflow_lightning.cost.sparse_layers import SparseLinear

SEED = 0
SPARSITIES = (0.8, 0.9, 0.95)
ROUNDS = 15
SHAPES = ((1024, 1024), (256, 1024), (1024, 256), (64, 64))  # inputs, outputs
ROWS = (1, 8, 64, 512, 2048)
OF_LAYERS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


def mlp() -> nn.Module:
    """Four layers of 1024 and a classifier."""
    hidden = [layer for _ in range(4) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(1024, 10))


def encoder() -> nn.Module:
    """Six layers of torch's encoder."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
    return nn.TransformerEncoder(layer, 6)


NETWORKS = {
    "MLP": (mlp, {size: torch.randn(size, 1024) for size in (1, 32, 128)}),
    "encoder": (encoder, {size: torch.randn(size, 64, 256) for size in (1, 32)}),
}


def ratios(times: Sequence[float], others: Sequence[float]) -> str:
    """How many times as fast: the median over the rounds, and the range of the middle 80 % of them."""
    found = [slow / fast for slow, fast in zip(times, others, strict=True)]
    deciles = statistics.quantiles(found, n=10)
    return f"{statistics.median(found):.2f} ({deciles[0]:.2f}-{deciles[-1]:.2f})"


def size_of_file(model: nn.Module) -> float:
    """The bytes that `save_sparse` writes, over those that `torch.save` does."""
    with tempfile.TemporaryDirectory() as folder:
        dense, sparse = Path(folder) / "dense", Path(folder) / "sparse"
        torch.save(model.state_dict(), dense)
        save_sparse(model, sparse)
        return sparse.stat().st_size / dense.stat().st_size


def of_network(name: str, size: int, sparsity: float) -> Row:
    """A network, dense and with sparse layers where they are faster."""
    torch.manual_seed(SEED)
    make, inputs = NETWORKS[name]
    model = make().eval()
    prune(model, sparsity, allocation="uniform")
    faster = sparse_linear(model, inputs[size])
    report = sparse_report(faster)
    networks = {"dense": model, "sparse": faster, "itself": copy.deepcopy(model)}
    seconds = paired_latency(networks, inputs[size], rounds=ROUNDS, clock=busy_clock())
    called = [layer for layer in report.layers if layer.reason != "not called with this input"]
    row: Row = {
        "network": name,
        "batch": size,
        "sparsity": f"{sparsity:g}",
        "swapped": f"{report.swapped} of {len(called)}",
        "dense ms": f"{1e3 * statistics.median(seconds['dense']):.3g}",
        "sparse ms": f"{1e3 * statistics.median(seconds['sparse']):.3g}",
        "times as fast": ratios(seconds["dense"], seconds["sparse"]),
        "itself": ratios(seconds["dense"], seconds["itself"]),
        "difference": f"{report.largest_difference:.0e}",
        "file": size_of_file(model),
    }
    print(row, flush=True)
    return row


def of_layers() -> list[Row]:
    """Linear layers by themselves, with more and more rows of inputs."""
    rows = []
    for inputs, outputs in SHAPES:
        for count in ROWS:
            row: Row = {"layer": f"{inputs} to {outputs}", "rows": count}
            for sparsity in OF_LAYERS:
                dense = nn.Linear(inputs, outputs)
                prune(dense, sparsity)
                pair = {"dense": dense, "sparse": SparseLinear(dense.weight, dense.bias)}
                seconds = paired_latency(pair, torch.randn(count, inputs), rounds=ROUNDS, clock=busy_clock())
                found = [a / b for a, b in zip(seconds["dense"], seconds["sparse"], strict=True)]
                row[f"{sparsity:g}"] = f"{statistics.median(found):.2f}"
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Measure everything and write the page."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    layers = of_layers()
    networks = [
        of_network(name, size, sparsity)
        for name, (_, sizes) in NETWORKS.items()
        for size in sizes
        for sparsity in SPARSITIES
    ]
    content = record("sparse_linear", [{"networks": networks, "layers": layers}], SEED)
    page = ROOT / "docs" / "sparse_linear.md"
    text = put(page.read_text(), "networks", f"{markdown(networks)}\n\n{caption('sparse_linear', content)}")
    page.write_text(put(text, "layers", markdown(layers)))


if __name__ == "__main__":
    main()
