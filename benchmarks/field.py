"""Faults that were found in the field, each whole kind of them, and what keeping zeros costs.

    python benchmarks/field.py

Writes ``docs/field.md``; exits with 1 if anything is lost. Takes a few minutes on one core.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date

import torch
from field_cases import KINDS
from field_cases.trial import Kind, lost
from tables import ROOT, Row, environment, markdown

from reflow_lightning import prune
from reflow_lightning.pruning.keeping import ZeroKeeper

SEED = 0
PAGE = """# Faults that were found in the field

**What it shows.** Nothing is lost in any of these trials.

Bug reports of pruning tools and trainings of strangers were replayed on this package. Each row is one kind of what went
wrong: its neighbours were looked for, all of them are inputs of the same kind, and each is tried for real. Nothing may
be lost: what is right is stated by the code of each trial (`benchmarks/field_cases/`), and an error is a loss too.
Beside it stands what Lightning's `ModelPruning` does where it has the same.

{table}

What was tried:

{neighbours}

## What keeping zeros costs

ResNet-50 (25.5 million weights, 80 % of them pruned, float32), one thread, medians of {repeats} turns that are measured
in alternation in one process. *Before* is what was done until now: all pruned weights are set to zero after each step
of the Trainer's optimizers. *Now* adds two checks a batch, at its start and its end; where nothing has moved they
compare write counts and read two weights a tensor.

{costs}

{caption}: `python benchmarks/field.py`
"""
REPEATS = 30


def row(kind: Kind) -> Row:
    """Try a kind."""
    start = time.perf_counter()
    losses = lost(kind)
    seconds = time.perf_counter() - start
    for name, text in losses.items():
        print(f"LOST {kind.name}: {name}: {text}", flush=True)
    print(f"{kind.title}: tried {len(kind.trials)}, lost {len(losses)} ({seconds:.0f} s)", flush=True)
    peer = "" if kind.peer is None else kind.peer()
    return {"kind": kind.title, "tried": len(kind.trials), "lost": len(losses), "`ModelPruning`": peer}


def keeping() -> list[Row]:
    """Milliseconds of keeping zeros."""
    import torchvision

    torch.manual_seed(SEED)
    model = torchvision.models.resnet50()
    masks = prune(model, 0.8)
    keeper = ZeroKeeper()
    keeper.bind(model, masks)
    weights = list(model.parameters())

    def check_what_moved() -> None:
        weights[0].data.add_(1.0)  # through data, as averages are often written
        keeper.put_back()

    tasks: dict[str, Callable[[], object]] = {
        "after a step, as before": keeper.set_zeros,
        "a check where nothing moved": keeper.put_back,
        "a check where one tensor moved": check_what_moved,
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(REPEATS):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(1000 * (time.perf_counter() - start))
    found = {name: statistics.median(values) for name, values in times.items()}
    before = found["after a step, as before"]
    found["a step and its two checks, now"] = before + 2 * found["a check where nothing moved"]
    return [{"what": name, "ms": f"{value:.2f}", "of before": f"{value / before:.3f}"} for name, value in found.items()]


def main() -> int:
    """Try all, and write."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = [row(kind) for kind in KINDS]
    page = PAGE.format(
        table=markdown(rows).replace("--:", "---"),
        neighbours="\n".join(f"- *{kind.title}*: {kind.neighbours}." for kind in KINDS),
        costs=markdown(keeping()),
        repeats=REPEATS,
        caption=f"{environment()}, seed {SEED}, {date.today().isoformat()}",
    )
    (ROOT / "docs" / "field.md").write_text(page)
    return 1 if any(r["lost"] for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
