"""What rescaling changes before BatchNorm is re-estimated, against the number of batches."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from matplotlib.figure import Figure
from tables import Row

from reflow_lightning.signal.figures import SERIES, new_figure, styled

ESTIMATORS = ("EMA, reset", "EMA, dense kept", "exact")
ARMS = {"BN": "-", "LW": "--", "ASR": ":"}


@styled
def plot(rows: Sequence[Row], network: str, sparsity: str) -> Figure:
    """Draw the table of `asr`: accuracy of one network and mask, and how far rescaling moves the logits.

    A colour and a mark is an estimator of BatchNorm's statistics, a kind of line is a rescaling. The band on the right
    holds all masks of the network, the line is their median.
    """
    rows = [row for row in rows if row["network"] == network]
    figure = new_figure(11, 5)
    left, right = figure.subplots(1, 2)
    shown = [row for row in rows if row["sparsity"] == sparsity]
    numbers = [row["b"] for row in shown]
    for estimator, style in zip(ESTIMATORS, SERIES, strict=False):
        shares = [numbers_in(row[f"{estimator}: BN / LW / ASR"]) for row in shown]
        for place, (arm, line) in enumerate(ARMS.items()):
            left.plot(numbers, [share[place] for share in shares], label=f"{estimator}: {arm}", **style, linestyle=line)
        found = [
            [numbers_in(row[f"moved, {estimator}: LW / ASR"])[1] for row in rows if row["b"] == number]
            for number in numbers
        ]
        right.plot(numbers, [median(values) for values in found], label=estimator, **style)
        right.fill_between(numbers, list(map(min, found)), list(map(max, found)), color=style["color"], alpha=0.2)
    left.set(title=f"{network}, CIFAR-10, sparsity {sparsity}", ylabel="accuracy, %")
    right.set(title="how far ASR moves the logits, all masks", ylabel="std of the difference / std", yscale="log")
    for axes in (left, right):
        axes.set(xlabel="calibration batches", xticks=numbers)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def numbers_in(cell: str) -> list[float]:
    """The numbers of a cell such as ``"14.65 / 14.25 / 10.45"``."""
    return [float(part) for part in cell.split("/")]
