"""What the package costs beside what people would use instead, and beside what the machine needs at least.

    python -m pip install ".[test]" && python benchmarks/speed.py

Times every file of ``benchmarks/speed_cases`` in a process of its own, one thread, and writes ``docs/speed.md``. Names
of files as arguments time these alone and print their tables. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib import import_module
from pathlib import Path

from tables import ROOT, Row, environment, markdown, record

SEED = 0
CASES = Path(__file__).parent / "speed_cases"
HELPERS = ("__init__", "row", "floors")
PAGE = """# What it costs

Each cost of the package beside what people would use instead, and beside the floor: what the machine at hand needs at
least, from the bytes that are moved and its copy bandwidth, or from the operations and the rate of its matrix products.
A *ratio* is the median of paired runs in one process that take turns, with its quartiles; one thread. Where a target is
missed, the last column says by how much and why.

* **Pruning** the 83 million weights of a ResNeXt takes a third of a second, some 30 to 50 times less than torch's own.
* **Calibrating** BatchNorm costs a tenth more than running the network on the same batches.
* **Least squares** for all layers of a ResNet-20 cost about four bare passes, whatever the depth.
* **Keeping zeros** costs less than half of what torch's reparametrisation does, and at 100 M weights a fourteenth.
* **Measuring the signal** is what falls short: 1.2 to 2 bare passes for variance, up to 7.6 for all that there is.

{sections}

## How it grows

![time against weights, layers and batches](speed_scaling.png)

Straight lines of slope 1 are linear. A billion bfloat16 weights in a mapped file are ranked and masked in 20 s and
40 MiB: `python benchmarks/speed_scaling.py`.

{caption}: `python benchmarks/speed.py`
"""


def names() -> list[str]:
    """What can be timed."""
    return sorted(path.stem for path in CASES.glob("*.py") if path.stem not in HELPERS)


def here(name: str) -> tuple[str, list[Row]]:
    """Title and rows of one file, timed in this process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    case = import_module(f"speed_cases.{name}")
    return case.TITLE, case.rows()


def in_a_process(name: str) -> tuple[str, list[Row]]:
    """Title and rows of one file, timed in a process that nothing else has warmed up."""
    code = f"import json, speed; print('RESULT' + json.dumps(speed.here({name!r})))"
    folder = Path(__file__).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    title, rows = json.loads(out.stdout.rpartition("RESULT")[2])
    return title, rows


def main(chosen: Sequence[str]) -> int:
    """Time all and write the page, or some and print them."""
    sections, all_rows = [], []
    for name in chosen or names():
        title, rows = in_a_process(name)
        print(f"## {title}\n\n{markdown(rows)}\n", flush=True)
        sections.append(f"## {title}\n\n{markdown(rows)}")
        all_rows += rows
    if not chosen:
        record("speed", all_rows, SEED)
        caption = f"{environment()}, one thread, seed {SEED}, {date.today().isoformat()}"
        (ROOT / "docs" / "speed.md").write_text(PAGE.format(sections="\n\n".join(sections), caption=caption))
    return int(any(row["met"] != "yes" for row in all_rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
