"""Minimum Threshold: a network that collapses without it, and the same one with it.

    python benchmarks/min_threshold.py

The case of the paper (arXiv 2209.14624) is MobileNet-V2 on CIFAR-10 at 98 %, ``globalmp_mobilenet_v2_98_mt``: days of
CPU time. This is the same network on scikit-learn's digits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tables import Row, configuration, publish

from reflow_lightning.experiments.experiment import run

SEED = 0
CASES = ((0.9, 0.0005), (0.95, 0.0005), (0.98, 0.0002))  # sparsity and threshold; the last is the paper's


def measure(sparsity: float, min_kept: float, folder: Path) -> Row:
    """One run; the dense network is trained in the first."""
    dense = folder / "dense.ckpt"
    cfg = configuration(
        "experiment=globalmp_mobilenet_v2_98",
        "data=digits",
        "~data.padding",
        "~data.padding_mode",
        f"ckpt={dense if dense.exists() else 'null'}",
        f"seed={SEED}",
        f"sparsity={sparsity}",
        f"min_kept={min_kept}",
        "label_smoothing=0",
        "repair=batchnorm",
        "pretrain.total_epochs=20",
        "pretrain.batch_size=64",
        "pretrain.optimizer.lr=0.02",
        "pretrain.optimizer.weight_decay=0.005",
        "pretrain.scheduler.step_size=8",
        "pretrain.scheduler.gamma=0.2",
        "finetune_epochs=5",
        "optimizer.lr=0.02",
        "scheduler.step_size=3",
        "scheduler.gamma=0.2",
    )
    report = run(cfg, folder)
    return {
        "sparsity": f"{report['sparsity']:.4g}",
        "least share kept in a layer": f"{100 * min_kept:g} %",
        "empty layers": sum(layer["nonzero"] == 0 for layer in report["cost"]["layers"]),
        **{state: report[state] for state in ("dense", "pruned", "repaired", "final")},
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        publish(
            "min_threshold",
            [measure(s, m, Path(folder)) for s, least in CASES for m in (0.0, least)],
            SEED,
            "docs/published.md",
        )
