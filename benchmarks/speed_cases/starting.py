"""How long a person waits before anything happens: imports, help, an answer to a typo, a press of Tab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from paired import Times, by_turns

from speed_cases.row import row

TITLE = "Starting: imports and the command line"
TURNS = 5
IMPORTS = {  # what is run: beside what, how many times that is aimed at, and why it may be more
    "import reflow_lightning": ("import torch", 0.2, ""),
    "from reflow_lightning import prune, calibrate": (
        "import torch",
        1.1,
        "some 150 modules of the package itself",
    ),
    "from reflow_lightning import Reflow": (
        "import lightning.pytorch",
        1.1,
        "a callback derives from Lightning's, and any part of `lightning.pytorch` imports all of it, with torchvision, "
        "torchmetrics and scipy where they are installed",
    ),
}
COMMANDS = {"--help": 1.5, "sparsty=0.9": 1.5, "schedule=gradul": 1.5, "criterion=magnitud": 1.5}
"""Arguments, and the seconds that are aimed at."""
TABS = {"reflow-lightning ": 1.0, "reflow-lightning sched": 1.0, "reflow-lightning criterion=": 1.0}
"""Lines as they are when Tab is pressed."""
NOTHING, HYDRA = "pass", "import hydra"


def rows() -> list[dict[str, Any]]:
    """Each in a fresh interpreter, all by turns; before, each runs once, which writes the bytecode."""
    codes = {NOTHING, HYDRA, *IMPORTS, *(peer for peer, _, _ in IMPORTS.values())}
    functions: dict[str, Callable[[], object]] = {code: partial(_run, "-c", code) for code in sorted(codes)}
    functions |= {arguments: partial(_run, "-m", "reflow_lightning", arguments) for arguments in COMMANDS}
    functions |= {line: partial(_run, "-m", "reflow_lightning", "-sc", "query=bash", line=line) for line in TABS}
    times = by_turns(functions, TURNS)
    return [
        *(_import(times, code) for code in IMPORTS),
        *(_answer(times, name, f"`reflow-lightning {name}`", target) for name, target in COMMANDS.items()),
        *(_answer(times, line, f"Tab after `{line}`", target) for line, target in TABS.items()),
    ]


def _run(*arguments: str, line: str = "") -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, *arguments], env=environment | {"COMP_LINE": line}, capture_output=True)


def _import(times: Times, code: str) -> dict[str, Any]:
    peer, target, why = IMPORTS[code]
    ratio = times.ratio(code, peer)
    met = ratio <= target
    return row(
        f"`{code}`",
        _seconds(times, code),
        times.spread(code, peer),
        f"`{peer}`: {_seconds(times, peer)}",
        f"an interpreter alone: {_seconds(times, NOTHING)}",
        f"<= {target:g} x",
        met,
        "" if met else f"{ratio / target:.2f} times the target: {why}",
    )


def _answer(times: Times, name: str, cost: str, target: float) -> dict[str, Any]:
    seconds = times.median(name)
    met = seconds <= target
    return row(
        cost,
        _seconds(times, name),
        times.spread(name, HYDRA),
        f"`{HYDRA}`: {_seconds(times, HYDRA)}",
        f"an interpreter alone: {_seconds(times, NOTHING)}",
        f"<= {target:g} s",
        met,
        "" if met else f"{seconds - target:.2f} s more: Hydra reads the configuration once for each group",
    )


def _seconds(times: Times, name: str) -> str:
    return f"{times.median(name):.2f} s"
