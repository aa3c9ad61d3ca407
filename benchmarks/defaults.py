"""Which allocation is the best default: one ranking over all layers, with floors or without, or a share for each layer.

    REFLOW_DATA=... python benchmarks/defaults.py [NETWORK ...]

Writes ``docs/defaults.md``, with the rows of all networks, or of those whose names hold one of the given texts: each is
written when it is measured, and the others stay as they are. Takes about twenty minutes on two cores that do nothing
else, if two processes share the networks.
"""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from statistics import mean
from typing import Any

import torch
from defaults_networks import BATCH, NETWORKS, Data, Network
from tables import ROOT, Row, markdown, put, record
from torch import nn

from reflow_lightning import calibrate, prune
from reflow_lightning.pruning import make_masks
from reflow_lightning.pruning.empties import nearly_empty

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
FLOORS = (0.002, 0.005, 0.01, 0.02)
CHOICES: dict[str, dict[str, Any]] = {
    "global": {},
    **{f"min_kept {floor:g}": {"min_kept": floor} for floor in FLOORS},
    **{name: {"allocation": name} for name in ("lamp", "erk", "uniform")},
}
BATCHES, SEED = 6, 0


@torch.no_grad()
def accuracy(net: nn.Module, data: Data) -> float:
    """Share of the test samples that are classified correctly."""
    hits = [
        (net(x).argmax(1) == y).double()
        for x, y in zip(data.test_inputs.split(500), data.test_classes.split(500), strict=True)
    ]
    return float(torch.cat(hits).mean())


def outcome(dense: nn.Module, sparsity: float, choice: dict[str, Any], data: Data) -> float | None:
    """The accuracy after the default repair; none where the floors do not leave so few weights."""
    net = copy.deepcopy(dense)
    try:
        prune(net, sparsity, **{"allocation": "global", **choice})
    except ValueError:
        return None
    calibrate(net, list(data.inputs[: BATCHES * BATCH].split(BATCH)), reference=dense, max_batches=BATCHES)
    return accuracy(net.eval(), data)


def average(values: list[float | None]) -> float | None:
    """The mean over seeds; none if a floor was out of reach for one of them."""
    there = [value for value in values if value is not None]
    return mean(there) if len(there) == len(values) else None


def measure(network: Network) -> list[Row]:
    """A row for each sparsity, means over the seeds."""
    start, data = time.perf_counter(), network.data()
    nets = [network.trained(seed) for seed in network.seeds]
    dense = mean(accuracy(net, data) for net in nets)
    rows: list[Row] = []
    for sparsity in SPARSITIES:
        row: Row = {"network": network.name, "sparsity": f"{sparsity:g}", "dense": dense}
        row |= {name: average([outcome(net, sparsity, how, data) for net in nets]) for name, how in CHOICES.items()}
        masks = make_masks(nets[0], sparsity, allocation="global")
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        row["layers named"] = len(nearly_empty(kept, {name: mask.shape for name, mask in masks.items()}))
        rows.append(row)
        print(*(f"{100 * v:5.1f}" if isinstance(v, float) else v for v in row.values()), flush=True)
    print(f"{network.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return rows


def lost(row: Row, name: str) -> float | None:
    """What a choice misses of the best choice in its row."""
    return None if row[name] is None else max(row[other] for other in CHOICES if row[other] is not None) - row[name]


def summary(rows: list[Row]) -> list[Row]:
    """How each choice does over all rows."""
    found: list[Row] = []
    for name in CHOICES:
        losses = [loss for row in rows if (loss := lost(row, name)) is not None]
        against = [row[name] - row["global"] for row in rows if row[name] is not None]
        found.append(
            {
                "choice": name,
                "mean loss": mean(losses),
                "worst loss": max(losses),
                "rows that lose over 5 points": sum(loss > 0.05 for loss in losses),
                "mean against global": mean(against),
                "worst against global": min(against),
                "best against global": max(against),
                "rows out of reach": len(rows) - len(losses),
            }
        )
    return found


def publish(content: dict[str, Any]) -> None:
    """Write the tables of the page."""
    page, rows = ROOT / "docs" / "defaults.md", content["rows"]
    caption = f"{content['environment']}, {content['date']}: `python benchmarks/defaults.py`"
    text = put(page.read_text(), "summary", markdown(summary(rows)))
    page.write_text(put(text, "defaults", f"{markdown(rows)}\n\n{caption}"))


def main(names: list[str]) -> None:
    """Measure and write, network by network."""
    results = ROOT / "benchmarks" / "results" / "defaults.json"
    for network in NETWORKS:
        if names and not any(name in network.name for name in names):
            continue
        rows = measure(network)
        others = json.loads(results.read_text())["rows"] if results.exists() else []
        found = {(row["network"], row["sparsity"]): row for row in (*others, *rows)}
        order = [(known.name, f"{sparsity:g}") for known in NETWORKS for sparsity in SPARSITIES]
        publish(record("defaults", [found[key] for key in order if key in found], SEED))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(sys.argv[1:])
