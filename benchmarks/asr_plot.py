"""What rescaling changes before BatchNorm is re-estimated, against the number of batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Protocol

from matplotlib.figure import Figure

COLOURS = {"EMA, reset": "tab:red", "EMA, dense kept": "tab:orange", "exact": "tab:green"}
MARKS = {"BN": "o", "LW": "^", "ASR": "s"}


class Cell(Protocol):
    """What is drawn of one mask and one number of batches."""

    network: str
    mask: str
    number: int
    accuracies: dict[str, dict[str, float]]
    moved: dict[str, dict[str, float]]


def plot(cells: Iterable[Cell], network: str, mask: str, path: Path) -> None:
    """Accuracy of one network and mask, and how far the rescalings move the logits, median and range of its masks."""
    cells = [cell for cell in cells if cell.network == network]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = [cell for cell in cells if cell.mask == mask]
    numbers = [cell.number for cell in shown]
    for estimator, colour in COLOURS.items():
        for arm, mark in MARKS.items():
            shares = [100 * cell.accuracies[estimator][arm] for cell in shown]
            left.plot(numbers, shares, color=colour, marker=mark, alpha=0.7, label=f"{estimator}: {arm}")
        by_number = [[cell.moved[estimator]["ASR"] for cell in cells if cell.number == number] for number in numbers]
        right.plot(numbers, [median(found) for found in by_number], color=colour, marker="s", label=estimator)
        right.fill_between(numbers, list(map(min, by_number)), list(map(max, by_number)), color=colour, alpha=0.2)
    left.set(title=f"{network}, CIFAR-10, sparsity {mask}", ylabel="accuracy in %")
    right.set(title="How far ASR moves the logits, all masks", ylabel="std of the difference / std", yscale="log")
    for axes in (left, right):
        axes.set(xlabel="calibration batches", xticks=numbers)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=150)
