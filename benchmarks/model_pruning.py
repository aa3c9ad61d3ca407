"""What becomes of a pruning in everyday trainings: Lightning's ``ModelPruning`` and ``Reflow``, side by side.

    python benchmarks/model_pruning.py

Each row is a case of ``model_pruning_cases``, run with both callbacks and judged by the same lines of code. Writes
``docs/model_pruning.md``; exits with 1 if a case fails with ``Reflow``. One thing is left out, since ``Reflow`` has no
rewinding: whether it sets the weights back to their first values.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
import tempfile
import warnings
from datetime import date
from pathlib import Path

from lightning.pytorch.callbacks import ModelPruning
from model_pruning_cases import CASES
from model_pruning_cases.case import SEED, Case
from model_pruning_cases.sides import OURS, SIDES, Side
from tables import ROOT, Row, environment, markdown

from reflow_lightning import Reflow

PAGE = """# Everyday trainings with `ModelPruning` and with `Reflow`

**What it shows.** What people do around a pruning (resume, test, average, use several processes) works with `Reflow`
in every row, and with `ModelPruning` in few.

Both callbacks prune half of a network's 192 weights, after the first of two epochs unless the row says otherwise; then
comes something that users do. The row says what, and after the colon what is asked for; the same code measures and
judges both sides, and an error is a result too. `ModelPruning` ranks globally by magnitude and has its layers named; it
rewinds no weights unless the row says so, although that is its default. *Masks applied for good* and *masks kept* are
its `make_pruning_permanent=True` and `False`; `Reflow` has neither choice: its weights are plain, and its masks lie
beside them in every checkpoint. Neither is small: the constructor of `ModelPruning` has {theirs} arguments, and
`Reflow` has {ours}.

{table}

{caption}: `python benchmarks/model_pruning.py`
"""


def measure(case: Case, side: Side) -> tuple[str, str]:
    """The verdict and what it is based on."""
    with tempfile.TemporaryDirectory() as folder:
        result = case.attempt(side, Path(folder))
    return "ok" if result.ok else "**fails**", result.text


def compare(case: Case) -> Row:
    """One row."""
    row: Row = {"what is tried": case.title}
    for name, side in SIDES.items():
        row[name], row[f"{name}: measured"] = measure(case, side)
        print(f"{case.name:<26}{name:<14}{row[name].strip('*'):<7}{row[f'{name}: measured']}", flush=True)
    return row


def arguments(callback: type) -> int:
    """How many arguments its constructor has."""
    return len(inspect.signature(callback).parameters)


def main() -> int:
    """Measure, print and write."""
    rows = [compare(case) for case in CASES]
    content = {"environment": environment(), "date": date.today().isoformat(), "seed": SEED, "rows": rows}
    (ROOT / "benchmarks" / "results" / "model_pruning.json").write_text(json.dumps(content, indent=1) + "\n")
    page = PAGE.format(
        theirs=arguments(ModelPruning),
        ours=arguments(Reflow),
        table=markdown(rows).replace("--:", "---", len(rows[0]) - 1),  # words are read from the left
        caption=f"{content['environment']}, seed {SEED}, {content['date']}",
    )
    (ROOT / "docs" / "model_pruning.md").write_text(page)
    failed = {name: sum(row[name] != "ok" for row in rows) for name in SIDES}
    print("\n" + "; ".join(f"{name} fails in {n} of {len(rows)} cases" for name, n in failed.items()))
    return 1 if failed[OURS.name] else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    sys.exit(main())
