"""All that can be measured on a CUDA device alone, in under eight minutes.

    python -m pip install ".[test]" && python benchmarks/gpu.py

It runs the tests marked ``gpu``, and measures ranking, masks, calibration, a process group of one rank, 2:4 and
`collapse`. Writes the table of ``docs/gpu.md``; exits with 1 if anything fails. ``--device cpu --quick`` does the same
in small on a CPU, and writes nothing: it shows that this script still runs.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
import traceback
import warnings

import torch
from gpu_cases import calibration, faster, processes, ranking, suites
from gpu_cases.timing import row
from tables import Row, markdown, publish

CASES = (suites, ranking, calibration, processes, faster)
SEED = 0


def measured(device: torch.device, quick: bool) -> tuple[list[Row], bool]:
    """The rows, and whether all went well; a kind of work that fails has a row that says so."""
    rows, went_well = [row("the device", _name(device))], True
    for case in CASES:
        start = time.perf_counter()
        torch.manual_seed(SEED)
        try:
            rows += case.rows(device, quick)
        except Exception as error:  # whatever it is, the other kinds are measured too
            traceback.print_exc()
            rows.append(row(f"`{case.__name__}`", "**fails**", f"{type(error).__name__}: {str(error).splitlines()[0]}"))
            went_well = False
        print(f"{case.__name__}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return rows, went_well


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return platform.processor() or platform.machine()


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small networks, few tests, no table")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device: run it where there is one, or with --device cpu")
    rows, went_well = measured(torch.device(given.device), given.quick)
    if given.device == "cuda" and not given.quick:
        publish("gpu", rows, SEED, "docs/gpu.md")
    else:
        print(markdown(rows))
    return 0 if went_well else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
