"""What is lost when something goes wrong: each fault, tried for real again and again.

    python benchmarks/faults.py

Writes ``docs/faults.md``; exits with 1 if anything is lost but the steps since the last checkpoint. Takes five
minutes on one core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from random import Random

import torch
from faults_event import interrupt, nan_in_calibration, raise_in_forward, raise_in_loader
from faults_files import (
    fill_disk_with_checkpoint,
    fill_disk_with_masks,
    flip_masks,
    lock_folder_of_masks,
    truncate_masks,
    truncate_resumed,
    truncate_weights,
)
from faults_kills import kill_masks, kill_while_calibrating, kill_while_pruning, kill_while_writing
from faults_outcome import Fault, Outcome
from faults_processes import kill_one, raise_on_one, raise_on_one_sharded
from faults_runs import kill_runs
from tables import ROOT, Row, environment, markdown

SEED = 0
ALL = 1000  # every possibility that there is

FAULTS = [
    Fault("SIGKILL while pruning", kill_while_pruning, 20),
    Fault("SIGKILL while calibrating", kill_while_calibrating, 20),
    Fault("SIGKILL while a checkpoint is written over the last one", kill_while_writing, 20),
    Fault("SIGKILL at a random moment of a run of the application, which goes on with the same command", kill_runs, 20),
    Fault("SIGKILL while a mask file is written over the last one", kill_masks, 100),
    Fault("Ctrl-C (SIGINT) at a random moment of a prune event", interrupt, 50),
    Fault("the forward pass raises, at each pass of a prune event", raise_in_forward, ALL),
    Fault("the calibration data raise, after each number of batches", raise_in_loader, ALL),
    Fault("NaN in one calibration batch, each in turn", nan_in_calibration, ALL),
    Fault("one of three processes raises, at each pass of a prune event", raise_on_one, ALL),
    Fault("the same, with parameters that are spread over the processes", raise_on_one_sharded, ALL),
    Fault("SIGKILL on one of three processes in a prune event", kill_one, 20),
    Fault("a mask file cut off, at each of these lengths", truncate_masks, 50),
    Fault("a checkpoint cut off, at each of these lengths, read for its weights", truncate_weights, 50),
    Fault("a checkpoint cut off, at each of these lengths, resumed from", truncate_resumed, 50),
    Fault("one byte of a mask file changed", flip_masks, 200),
    Fault("disk full while a mask file is written over the last one", fill_disk_with_masks, 20),
    Fault("disk full while a checkpoint is written over the last one", fill_disk_with_checkpoint, 20),
    Fault("mask file in a read-only folder", lock_folder_of_masks, 5),
]

PAGE = """# Faults, and what they cost

**What it shows.** No fault costs more than the training steps since the last checkpoint. The network and the files
are as they were before it, or the damage is noticed.

Each fault was tried as often as the table says, at moments and places drawn from a seed. What was lost is measured.
After a kill the training goes on from its last checkpoint, and every checkpoint that is found then, as well as the last
one, must be bit for bit that of a training left alone: weights, BatchNorm buffers, masks, optimizer, scheduler. A
run of the application must end with the same network and the same numbers. After
an error the network, its training flags, its hooks and the random state must be as they were, and the file of before
must be there. A disk is full here when the system refuses to write beyond some size. Of several processes all must
raise, and none may wait for ever. The temporary folder, where Lightning writes a checkpoint before it moves it to its
place, is on the disk of the checkpoints here; where it is not, the move is no single step.

{table}

{caption}: `python benchmarks/faults.py`
"""


def attempt(fault: Fault) -> Outcome:
    """Try a fault in a folder of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcome = fault.attempt(fault.times, Path(folder), Random(SEED))
    seconds = time.perf_counter() - start
    print(f"{fault.title}: tried {outcome.tried}, lost {outcome.lost} ({seconds:.0f} s)", flush=True)
    return outcome


def row(fault: Fault, outcome: Outcome) -> Row:
    """One row."""
    return {"fault": fault.title, "tried": outcome.tried, "lost": outcome.lost, "what was seen": outcome.happened}


def main() -> int:
    """Try all, and write."""
    torch.set_num_threads(1)
    outcomes = [attempt(fault) for fault in FAULTS]
    table = markdown([row(*pair) for pair in zip(FAULTS, outcomes, strict=True)])
    caption = f"{environment()}, seed {SEED}, {date.today().isoformat()}"
    (ROOT / "docs" / "faults.md").write_text(PAGE.format(table=table.replace("--:", "---"), caption=caption))
    return 1 if any(outcome.damage for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
