"""FastGRNN on HAR-2, trained here: dense, pruned by magnitude, and by rank, before and after fine-tuning.

    REFLOW_DATA=... python benchmarks/har2.py

Takes about half an hour on two idle cores. The two dense networks are trained once and then shared by all rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tables import Row, configuration, publish

from reflow_lightning.experiments.experiment import run

SEED = 0
RATES = ("optimizer.lr=0.002", "optimizer.weight_decay=0.0001")
OURS = (  # as in experiment=har2_fastgrnn, for the experiments of the paper too
    "data.validation=subjects",
    "data.val_share=0.1",
    "data.rotation=0.3",
    "data.noise=0.1",
    "label_smoothing=0.1",
    "monitor=val/loss",
    "mode=min",
    "trainer.gradient_clip_val=0.25",
    "pretrain.total_epochs=80",
    "pretrain.optimizer.lr=0.005",
    "pretrain.optimizer.weight_decay=0.0001",
    "finetune_epochs=20",
)
RANKS = ((9, 8), (9, 7), (8, 7))


def measure(name: str, folder: Path, experiment: str, *overrides: str) -> Row:
    """One run; its dense network stays in the folder for the next."""
    dense = folder / "dense.ckpt"
    start = (f"ckpt={dense}",) if dense.exists() else ()
    cfg = configuration(
        f"experiment={experiment}",
        f"seed={SEED}",
        *OURS,
        *start,
        *overrides,
    )
    report = run(cfg, folder)
    return {
        "what is left": name,
        "sparsity": f"{report['sparsity']:.3g}",
        **{state: report[state] for state in ("dense", "pruned", "final")},
        "published": report["published"].get("final"),
        "weights": report["cost"]["nonzero"],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        (full := Path(folder, "full")).mkdir()
        (factored := Path(folder, "factored")).mkdir()
        rows = [
            measure(f"{100 * (1 - s):.0f} % of the weights", full, "har2_fastgrnn", f"sparsity={s}", *RATES)
            for s in (0.5, 0.6, 0.7, 0.8, 0.9, 0.0)  # the last: as much training without pruning
        ]
        rows += [
            measure(f"ranks {w}, {u} of 9, 80{note}", factored, f"globalmp_fastgrnn_{w}_{u}", *rates)
            for note, rates in (("", RATES), (", fine-tuned at the printed rate", ()))
            for w, u in RANKS
        ]
    publish("har2", rows, SEED, "docs/published.md")
