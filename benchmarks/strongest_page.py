"""The page of `strongest.py`: its table and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import ROOT, Row, caption, markdown, put, record

COLORS = ("#b8bec6", "#4f9ac4", "#2a9d8f", "#1d3557", "#edae49", "#8d6a9f", "#d1495b")
QUOTED = {  # from the tables of arXiv 2302.14623, second-hand: not measured here, and not checked at the source
    ("ResNet-20 of CHITA", "0.8"): "54.01 / 62.63 / 51.28 / 57.90",
    ("ResNet-20 of CHITA", "0.9"): "11.79 / 11.49 / 13.68 / 15.60",
}
Cells = Sequence[dict[str, Any]]


def table(cells: Cells, arms: Sequence[str]) -> list[Row]:
    """A row for each network and target, in the order in which they were measured."""
    networks = list(dict.fromkeys(cell["network"] for cell in cells))
    places = {(networks.index(cell["network"]), cell["target"]) for cell in cells}
    rows: list[Row] = []
    for number, target in sorted(places):
        network = networks[number]
        here = [cell for cell in cells if (cell["network"], cell["target"]) == (network, target)]
        row: Row = {"network": network, "target": target, "dense": here[0]["dense"]}
        for arm in arms:
            found = [100 * cell["accuracy"] for cell in here if cell["arm"] == arm]
            spread = f" ± {stdev(found):.2f}" if len(found) > 2 else f" ({len(found)})" if found else ""
            row[arm] = f"{mean(found):.2f}{spread}" if found else ""
        row["quoted: MP / WoodFisher / CBS / CHITA"] = QUOTED.get((network, target), "")
        rows.append(row)
    return rows


def seconds(cells: Cells, arms: Sequence[str]) -> list[Row]:
    """The median time of each arm, by network."""
    rows: list[Row] = []
    for network in dict.fromkeys(cell["network"] for cell in cells):
        row: Row = {"seconds": network}
        for arm in arms:
            found = sorted(cell["seconds"] for cell in cells if (cell["network"], cell["arm"]) == (network, arm))
            row[arm] = f"{found[len(found) // 2]:.0f}" if found else ""
        rows.append(row)
    return rows


def plot(cells: Cells, arms: Sequence[str], path: Path) -> None:
    """Accuracy against sparsity, a panel for each network and a line for each way to repair."""
    networks = list(dict.fromkeys(cell["network"] for cell in cells))
    figure = Figure(figsize=(4.8 * len(networks), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, network in zip(figure.subplots(1, len(networks), sharey=True, squeeze=False)[0], networks, strict=True):
        here = [cell for cell in cells if cell["network"] == network and ":" not in cell["target"]]
        for arm, color in zip(arms, COLORS, strict=False):
            found: dict[float, list[float]] = {}
            for cell in here:
                if cell["arm"] == arm:
                    found.setdefault(float(cell["target"]), []).append(100 * cell["accuracy"])
            points = sorted((sparsity, mean(values)) for sparsity, values in found.items())
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1.8, color=color, label=arm)
        axes.axhline(100 * here[0]["dense"], color="#3b4a5a", linewidth=1, linestyle=":")
        axes.set_title(network, fontsize=10, loc="left")
        axes.set_xlabel("sparsity")
        axes.set_xticks(sorted({float(cell["target"]) for cell in here}))
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("top-1 accuracy, %")
    drawn = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    known = {arm: drawn[arm] for arm in arms if arm in drawn}
    figure.legend(known.values(), known, loc="outside lower center", ncols=3 * len(networks), frameon=False)
    figure.savefig(path, dpi=150)


def write(cells: Cells, arms: Sequence[str]) -> None:
    """Write the results, the tables of the page and its plot."""
    rows = table(cells, arms)
    content = record("strongest", rows, seed=0)
    page = ROOT / "docs" / "strongest.md"
    text = put(page.read_text(), "strongest", f"{markdown(rows)}\n\n{caption('strongest', content)}")
    page.write_text(put(text, "strongest_seconds", markdown(seconds(cells, arms))))
    plot(cells, arms, ROOT / "docs" / "strongest.png")
    print(markdown(rows))
