"""Draw the pictures of ``docs/`` once more from what the benchmarks recorded: ``python benchmarks/pictures.py``.

For a change of style; nothing is measured. ``strong_but_wrong.png`` and ``variance_profile.png`` are drawn by
``signal_quality.py`` and by a run of the application, whose signals are not recorded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import asr_plot
import collapse_plot
import layer_collapse_plot
import scaling_plot
import selection_plot
import strongest_plot
import text_plot
from matplotlib.figure import Figure
from tables import ROOT, Row, recorded

PICTURES: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "asr": lambda rows: asr_plot.plot(rows, "ResNet-20", "0.9"),
    "collapse": collapse_plot.plot,
    "layer_collapse": layer_collapse_plot.plot,
    "selection_or_signal": selection_plot.plot,
    "speed_scaling": scaling_plot.plot,
    "strongest": strongest_plot.plot,
    "text": text_plot.plot,
}


def draw(name: str) -> None:
    """Draw one of them from ``results/<name>.json``."""
    PICTURES[name](recorded(name)).savefig(ROOT / "docs" / f"{name}.png", dpi=100)


if __name__ == "__main__":
    for picture in PICTURES:
        draw(picture)
