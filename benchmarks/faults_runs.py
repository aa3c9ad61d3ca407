"""Runs of the application that are killed (SIGKILL) at random moments, and go on with the same command."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from faults_outcome import Outcome, differences, start
from tables import configuration

from reflow_lightning.experiments.experiment import run

SMALL = (
    *("model.blocks=1", "model.width=4", "reflow.calibration_batches=2", "sparsity=0.7", "title=killed"),
    *("trainer.limit_train_batches=4", "trainer.limit_val_batches=1", "trainer.limit_test_batches=2"),
    *("+optimizer@pretrain.optimizer=sgd", "+scheduler@pretrain.scheduler=cosine", "+pretrain.total_epochs=3"),
    *("epochs=1", "finetune_epochs=3", "checkpoint.every_minutes=1e-9"),  # a checkpoint after every step
)
SCHEDULES = ("after_training", "iterative")
PHASES = ("before its first checkpoint", "in its dense training", "after it", "where it prunes and fine-tunes")

TRAINING = PHASES[1], PHASES[3]


def kill_runs(times: int, folder: Path, chance: Random) -> Outcome:
    """Kill runs until each training was struck so often; each run must end as one that was left alone.

    A run trains a dense network, prunes it at once or in rounds, and trains on.
    """
    outcome = Outcome()
    alone = {}
    for schedule in SCHEDULES:
        (folder / schedule).mkdir()
        began = time.perf_counter()
        _live(schedule, folder / schedule, None)
        alone[schedule] = _result(folder / schedule), time.perf_counter() - began
    number = 0
    while min(outcome.seen[_killed(phase)] for phase in TRAINING) < times and not outcome.damage:
        schedule = SCHEDULES[number % len(SCHEDULES)]
        wanted, seconds = alone[schedule]
        place = folder / f"{schedule}{number}"
        place.mkdir()
        while not _live(schedule, place, chance.uniform(0.2, 0.8) * seconds):
            outcome.tried += 1
            outcome.seen[_killed(_phase(place))] += 1
        outcome.damage += [f"{schedule}: {where}" for where in differences(wanted, _result(place))]
        number += 1
    return outcome


def _live(schedule: str, folder: Path, seconds: float | None) -> bool:
    """Start a run in a process of its own, kill it after so many seconds, and say whether it was over before."""
    child, pipe = start(_run, schedule, folder)
    over = pipe.poll(seconds) and pipe.recv() == "done"
    if not over:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return bool(over)


def _run(pipe: Any, schedule: str, folder: Path) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(1)
    run(configuration(*SMALL, f"schedule={schedule}", "resume=true"), folder)
    pipe.send("done")


def _phase(folder: Path) -> str:
    """Where a killed run was, from what it left behind."""
    saved = {path.parent.name for path in (folder / "checkpoints").glob("*/last.ckpt")}
    if "fit" in saved:
        return PHASES[3]
    if (folder / "dense.ckpt").exists():
        return PHASES[2]
    return PHASES[1] if saved else PHASES[0]


def _killed(phase: str) -> str:
    return f"killed {phase}"


def _result(folder: Path) -> dict[str, Any]:
    """The network, and what the report says of every state."""
    report = json.loads((folder / "report.json").read_text())
    state = torch.load(folder / "pruned.ckpt", weights_only=True)["state_dict"]
    return {"network": state, "states": report["stages"], "validation": report["validation"]}
