"""What the package costs beside what people would use instead, and beside what the machine needs at least.

    python -m pip install ".[test]" && python benchmarks/speed.py

Times every file of ``benchmarks/speed_cases`` in a process of its own, one thread, and writes ``docs/speed.md``. Names
of files as arguments time these alone, anew. Exits with 1 if a target is missed.
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
from typing import Any

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


def known() -> dict[str, dict[str, Any]]:
    """What was timed before, by file: its title and its rows."""
    path = ROOT / "benchmarks" / "results" / "speed.json"
    return {row["case"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}


def main(chosen: Sequence[str]) -> int:
    """Time all, or some beside what is known of the others, and write the page."""
    found = known()
    for name in chosen or names():
        title, rows = in_a_process(name)
        print(f"## {title}\n\n{markdown(rows)}\n", flush=True)
        found[name] = {"case": name, "title": title, "rows": rows}
    cases = [found[name] for name in names() if name in found]
    record("speed", cases, SEED)
    sections = [f"## {case['title']}\n\n{markdown(case['rows'])}" for case in cases]
    caption = f"{environment()}, one thread, seed {SEED}, {date.today().isoformat()}: `python benchmarks/speed.py`"
    page = ROOT / "docs" / "speed.md"
    page.write_text(put(page.read_text(), "speed", "\n\n".join([*sections, caption])))
    return int(any(row["met"] != "yes" for case in cases for row in case["rows"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
