"""Minimum Threshold: a network that collapses without it, and the same one with it.

    python benchmarks/min_threshold.py

The case of the paper (arXiv 2209.14624) is MobileNet-V2 on CIFAR-10 at 98 %, ``globalmp_mobilenet_v2_98_mt``: days of
CPU time. This is the same network at the same sparsity on scikit-learn's digits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tables import Row, configuration, publish

from reflow_lightning.experiments.experiment import run

SEED = 0
SPARSITY = 0.98


def measure(min_kept: float, folder: Path) -> Row:
    """One run; the dense network is trained in the first."""
    dense = folder / "dense.ckpt"
    start = f"ckpt={dense}" if dense.exists() else "ckpt=null"
    cfg = configuration(
        "experiment=globalmp_mobilenet_v2_98",
        "data=digits",
        "~data.padding",
        "~data.padding_mode",
        start,
        f"seed={SEED}",
        f"sparsity={SPARSITY}",
        f"min_kept={min_kept}",
        "finetune_epochs=20",
        "pretrain.total_epochs=20",
        "pretrain.batch_size=64",
        "repair=auto",
    )
    report = run(cfg, folder)
    layers = report["cost"]["layers"]
    return {
        "least share kept in a layer": f"{100 * min_kept:g} %",
        "sparsity": f"{report['sparsity']:.4g}",
        "empty layers": sum(layer["nonzero"] == 0 for layer in layers),
        **{state: report[state] for state in ("dense", "pruned", "repaired", "final")},
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        publish("min_threshold", [measure(min_kept, Path(folder)) for min_kept in (0.0, 0.0002)], SEED)
