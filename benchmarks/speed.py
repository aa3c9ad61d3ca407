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

from tables import ROOT, Row, environment, markdown, put, record

SEED = 0
CASES = Path(__file__).parent / "speed_cases"
HELPERS = ("__init__", "row", "floors")


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
        page, block = ROOT / "docs" / "speed.md", "\n\n".join([*sections, f"{caption}: `python benchmarks/speed.py`"])
        page.write_text(put(page.read_text(), "speed", block))
    return int(any(row["met"] != "yes" for row in all_rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
