"""The page of `strongest.py`: its table and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from pictures import draw
from tables import ROOT, Row, caption, markdown, put, record

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


def write(cells: Cells, arms: Sequence[str]) -> None:
    """Write the results, the tables of the page and its plot."""
    rows = table(cells, arms)
    content = record("strongest", rows, seed=0)
    page = ROOT / "docs" / "strongest.md"
    text = put(page.read_text(), "strongest", f"{markdown(rows)}\n\n{caption('strongest', content)}")
    page.write_text(put(text, "strongest_seconds", markdown(seconds(cells, arms))))
    draw("strongest")
    print(markdown(rows))
