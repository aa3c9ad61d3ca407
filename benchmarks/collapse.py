"""What a collapse removes from pruned and repaired networks, and how much faster they really are.

    REFLOW_DATA=... python benchmarks/collapse.py [FOLDER]

Needs ``cifar-10-batches-py`` and ``weights/resnet20-12fca82f.th`` (https://github.com/akamaster/pytorch_resnet_cifar10)
in REFLOW_DATA. The other dense networks are trained first, in ten minutes or so, and kept in FOLDER, if one is given;
what follows takes as long again on one core. Writes docs/collapse.md and its plot.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from collapse_networks import BATCHES, CASES, SEED, Case, Material, accuracy, material, outputs, pruned_and_repaired
from pictures import draw
from tables import ROOT, Row, caption, data_folder, in_kept_folder, markdown, put, record
from torch import nn
from torch.fx.experimental.optimization import fuse

from reflow_lightning.collapse import CollapseReport, collapse, collapse_report
from reflow_lightning.cost.comparison import Size, measure_size
from reflow_lightning.cost.latency import paired_latency
from reflow_lightning.running.difference import relative_difference

ROUNDS = {1: 200, 128: 40}  # by batch size
WIDTHS = (64, 63, 60, 56, 48, 40, 33, 32)  # of 64
REPORTS = (("ResNet-20", "digits", "0.95"), ("ResNet-20", "cifar10", "0.95"), ("ConvNeXt", "digits", "0.9"))
_WHICH = ("network", "data", "sparsity", "known from")
TABLES = {
    "removed": (
        *("dense", "repaired", "collapsed", "difference"),
        *("rectifiers", "layers", "channels", "parameters", "multiply-adds"),
    ),
    "faster": (
        *(f"batch {size}{against}" for size in ROUNDS for against in ("", ", folded", ", itself")),
        *("memory", "memory, folded", "file"),
    ),
}


def collapsed(net: nn.Module, given: Material) -> dict[str, nn.Module]:
    """By what the states of rectifiers are known from; what was seen in data counts only if more goes."""
    example = given.test[0][0]
    by_weights = collapse(net, example)
    by_data = collapse(net, example, batches=given.batches, max_batches=BATCHES)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (by_weights, by_data)]
    return {"weights": by_weights, **({"weights, data": by_data} if sizes[1] < sizes[0] else {})}


def measure(case: Case, sparsity: float, given: Material) -> list[tuple[Row, CollapseReport]]:
    """A row for each way to know the rectifiers, and what was reported."""
    repaired = pruned_and_repaired(case, given, sparsity)
    results = collapsed(repaired, given)
    folded = fuse(repaired)  # torch's own graph with BatchNorm folded, which takes no collapse
    networks = {"repaired": repaired, "itself": copy.deepcopy(repaired), "folded": folded, **results}
    images = torch.cat([inputs for inputs, _ in given.test[:2]])
    seconds = {size: paired_latency(networks, images[:size], rounds=rounds) for size, rounds in ROUNDS.items()}
    sizes = {name: measure_size(net, images[: max(ROUNDS)]) for name, net in networks.items()}
    logits = {name: outputs(networks[name], given.test) for name in ("repaired", *results)}
    rows = []
    for name in results:
        row: Row = dict(zip(_WHICH, (case.network, case.data, f"{sparsity:g}", name), strict=True))
        row |= {
            "dense": given.dense_accuracy,
            "repaired": accuracy(logits["repaired"], given.test),
            "collapsed": accuracy(logits[name], given.test),
        }
        row["difference"] = f"{relative_difference(logits['repaired'], logits[name]):.0e}"
        report = collapse_report(results[name])
        row["rectifiers"] = sum(step.what == "rectifier" for step in report.removed)
        row |= _removed(sizes["repaired"], sizes[name])
        for size, times in seconds.items():
            row[f"batch {size}"] = ratio(times, "repaired", name)
            row[f"batch {size}, folded"] = ratio(times, "folded", name)
            row[f"batch {size}, itself"] = ratio(times, "repaired", "itself")
        row["memory"] = _saved("peak_bytes", sizes["repaired"], sizes[name])
        row["memory, folded"] = _saved("peak_bytes", sizes["folded"], sizes[name])
        row["file"] = _saved("file_bytes", sizes["repaired"], sizes[name])
        print(row, flush=True)
        rows.append((row, report))
    return rows


def _removed(before: Size, after: Size) -> Row:
    names = {"channels": "channels", "parameters": "parameters", "multiply-adds": "multiply_adds"}
    shares = {title: _saved(name, before, after) for title, name in names.items()}
    return {"layers": f"{before.layers - after.layers} of {before.layers}", **shares}


def _saved(name: str, before: Size, after: Size) -> float:
    return 1 - getattr(after, name) / getattr(before, name)


def ratio(seconds: Mapping[str, Sequence[float]], before: str, after: str) -> str:
    """How many times as fast: the median over the rounds, and the range of the middle 80 % of them."""
    ratios = [slow / fast for slow, fast in zip(seconds[before], seconds[after], strict=True)]
    deciles = statistics.quantiles(ratios, n=10)
    return f"{statistics.median(ratios):.2f} ({deciles[0]:.2f}-{deciles[-1]:.2f})"


def widths() -> list[Row]:
    """How much faster two convolutions are with fewer channels between them, whatever removed those."""
    pairs = {
        str(width): nn.Sequential(nn.Conv2d(64, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 64, 3, padding=1))
        for width in WIDTHS
    }
    rows: list[Row] = [{"channels": f"{width} of 64", "multiply-adds": 1 - width / 64} for width in WIDTHS[1:]]
    for size in ROUNDS:
        seconds = paired_latency(pairs, torch.randn(size, 64, 8, 8), rounds=ROUNDS[1])
        for row, width in zip(rows, WIDTHS[1:], strict=True):
            row[f"batch {size}"] = ratio(seconds, "64", str(width))
    return rows


def main(folder: Path) -> None:
    """Measure every case and write the page."""
    data_folder()  # or an explanation, before anything is trained
    torch.set_num_threads(1)
    found, between = [], widths()
    for case in CASES:
        given = material(case, folder)
        for sparsity in case.sparsities:
            found += measure(case, sparsity, given)
    rows = [row for row, _ in found]
    content, page = record("collapse", rows, SEED), ROOT / "docs" / "collapse.md"
    text = page.read_text()
    for mark, columns in TABLES.items():
        table = markdown([{column: row[column] for column in (*_WHICH, *columns)} for row in rows])
        text = put(text, mark, f"{table}\n\n{caption('collapse', content)}")
    text = put(text, "widths", markdown(between))
    page.write_text(put(text, "reports", _reports(found)))
    draw("collapse")


def _reports(found: Sequence[tuple[Row, CollapseReport]]) -> str:
    shown = {tuple(row[key] for key in _WHICH[:3]): report for row, report in reversed(found)}  # that of the weights
    return "\n\n".join(f"{', '.join(which)}:\n\n```text\n{shown[which]}\n```" for which in REPORTS)


if __name__ == "__main__":
    in_kept_folder(main)
