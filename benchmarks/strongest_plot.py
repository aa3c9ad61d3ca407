"""Accuracy against sparsity, a panel for each network and a line for each way to repair."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from tables import Row, mean_and_spread

from reflow_lightning.signal.figures import BLACK, SERIES, draw_line, new_figure, styled

_NO_ARMS = ("network", "target", "dense", "quoted: MP / WoodFisher / CBS / CHITA")


@styled
def plot(rows: Sequence[Row]) -> Figure:
    """Draw the table of `strongest`; bands are a standard deviation over the seeds, where there are more than two."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    arms = [column for column in rows[0] if column not in _NO_ARMS]
    figure = new_figure(5.4 * len(networks), 5)
    for axes, network in zip(figure.subplots(1, len(networks), sharey=True, squeeze=False)[0], networks, strict=True):
        here = [row for row in rows if row["network"] == network and ":" not in row["target"]]
        axes.axhline(100 * here[0]["dense"], color=BLACK, linewidth=1.2, linestyle="--", label="dense")
        for arm, style in zip(arms, SERIES, strict=False):
            if found := [(float(row["target"]), *mean_and_spread(row[arm])) for row in here if row[arm]]:
                targets, means, spreads = zip(*found, strict=True)
                draw_line(axes, targets, means, spreads, arm, **style)
        axes.set_title(network)
        axes.set_xlabel("sparsity")
        axes.set_xticks(sorted({float(row["target"]) for row in here}))
        axes.set_ylim(0, 100)
    figure.axes[0].set_ylabel("top-1 accuracy, %")
    drawn = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=4)
    return figure
