"""One line of the table of times."""

from __future__ import annotations

from typing import Any


def row(
    cost: str, ours: str, ratio: str, beside: str, floor: str, target: str, met: bool, note: str = ""
) -> dict[str, Any]:
    """A line of the table.

    Args:
        cost: What is done, on which network and data.
        ours: The seconds that the package takes, with a unit.
        ratio: The same over what stands in ``beside``: median and quartiles (`paired.Times.spread`).
        beside: What it is compared with, and its seconds: a peer, or bare passes.
        floor: What this machine needs at least: bytes over copy bandwidth, operations over matmul rate (`floors`).
        target: What is aimed at.
        met: Whether it is reached.
        note: Where it is missed: by how much, and why.
    """
    columns = {"cost": cost, "ours": ours, "ratio": ratio, "beside": beside, "floor": floor, "target": target}
    return columns | {"met": "yes" if met else "**no**", "note": note}
