"""What folding constant channels into the layers after a LayerNorm brings.

    python benchmarks/collapse_norms.py [FOLDER]

A LayerNorm and the linear layer after it, of several widths, with a share of the channels constant; then the networks
with LayerNorm of `collapse.py`, pruned with other allocations. They are trained first, in a minute or two, and kept in
FOLDER, if one is given. Writes two tables of docs/collapse.md.
"""

from __future__ import annotations

import copy
from datetime import date
from pathlib import Path

import torch
from collapse import ROUNDS, SEED, ratio
from collapse_networks import CASES, accuracy, material, outputs
from tables import ROOT, Row, environment, in_kept_folder, markdown, put
from torch import nn

from reflow_lightning import calibrate, prune
from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.cost.comparison import measure_size
from reflow_lightning.cost.latency import paired_latency

SHARES = (0.1, 0.25, 0.5)
WIDTHS = (64, 384, 768)
PRUNINGS = (("global", 0.9), ("global", 0.95), ("lamp", 0.95), ("uniform", 0.8), ("uniform", 0.9), ("uniform", 0.95))
TOKENS = 1024


def pair(width: int, share: float) -> nn.Module:
    """A LayerNorm and the first linear layer of a block, behind a small layer that puts out constants."""
    torch.manual_seed(SEED)
    net = nn.Sequential(nn.Linear(8, width), nn.LayerNorm(width), nn.Linear(width, 4 * width)).eval()
    with torch.no_grad():
        net[0].weight[: int(share * width)] = 0
    return net


def pairs() -> list[Row]:
    """A row for each width and share."""
    rows: list[Row] = []
    for width, share in ((width, share) for width in WIDTHS for share in SHARES):
        net = pair(width, share)
        smaller = collapse(net, torch.randn(2, 8))
        seconds = paired_latency({"net": net, "smaller": smaller}, torch.randn(TOKENS, 8), rounds=ROUNDS[128])
        is_folded = any(row.what == "norm" for row in collapse_report(smaller).removed)
        parameters = [sum(p.numel() for p in network.parameters()) for network in (net, smaller)]
        rows.append(
            {
                "channels": str(width),
                "constant": share,
                "folded": "yes" if is_folded else "no, it would not pay",
                "parameters": 1 - parameters[1] / parameters[0],
                "times as fast": ratio(seconds, "net", "smaller"),
            }
        )
        print(rows[-1], flush=True)
    return rows


def networks(folder: Path) -> list[Row]:
    """A row for each network, allocation and sparsity."""
    rows: list[Row] = []
    for case in CASES:
        if case.network not in ("vision transformer", "ConvNeXt"):
            continue
        given = material(case, folder)
        images = given.test[0][0][:1]
        for allocation, sparsity in PRUNINGS:
            net = copy.deepcopy(given.dense)
            prune(net, sparsity, allocation=allocation)
            how = {"repair": case.repair, "reference": given.dense, "progress": False}
            calibrate(net, given.batches, max_batches=len(given.batches), **how)
            smaller = collapse(net.eval(), images)
            folded = [row.why.split(" channels")[0] for row in collapse_report(smaller).removed if row.what == "norm"]
            before, after = measure_size(net, images), measure_size(smaller, images)
            rows.append(
                {
                    "network": case.network,
                    "allocation": allocation,
                    "sparsity": f"{sparsity:g}",
                    "repaired": accuracy(outputs(net, given.test), given.test),
                    "constant before a LayerNorm that is folded": ", ".join(folded) or "none",
                    "parameters": 1 - after.parameters / before.parameters,
                    "multiply-adds": 1 - after.multiply_adds / before.multiply_adds,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main(folder: Path) -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    tables = {"norm_pairs": pairs(), "norm_networks": networks(folder)}
    caption = f"{environment()}, seed {SEED}, {date.today()}: `python benchmarks/collapse_norms.py`"
    page = ROOT / "docs" / "collapse.md"
    text = page.read_text()
    for mark, rows in tables.items():
        text = put(text, mark, f"{markdown(rows)}\n\n{caption}")
    page.write_text(text)


if __name__ == "__main__":
    in_kept_folder(main)
