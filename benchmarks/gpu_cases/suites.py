"""The tests that need a device. They compare it with the CPU, and train in every precision, 16-mixed included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from gpu_cases.timing import row

ROOT = Path(__file__).parent.parent.parent
MINUTES = 4


def rows(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """On a CPU only those tests run that take any device, and of these, if it shall be quick, the shortest."""
    files = ["tests"] if device.type == "cuda" else ["tests/test_devices.py"]
    chosen = ["-k", "ties or sparse_files or smaller"] if quick else []
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", *chosen, *files]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "REFLOW_DEVICE": device.type},
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"tests fail:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
    return [row("tests marked `gpu`", _counts(done.stdout), "the same on a CPU, in float64 to 1e-6")]


def _counts(output: str) -> str:
    return ", ".join(f"{number} {word}" for number, word in re.findall(r"(\d+) (passed|skipped)", output))
