"""Trainings that nobody here wrote, with and without the callback, and what an event needs of memory.

    python benchmarks/trainings.py

Trains each module of ``tests/zoo/trainings`` and judges it by ``trainings_trial``. Writes ``docs/trainings.md``, which
also shows what was seen in public projects (``results/public_projects.json``). Exits with 1 if anything is lost. Takes
about ten minutes on one core.
"""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from peak import peak_bytes
from tables import ROOT, Row, environment, markdown
from torch import nn

sys.path.append(str(ROOT / "tests"))

from trainings_trial import EVENT, SEED, Outcome, attempt
from zoo.trainings import TRAININGS, Training

from reflow_lightning import Pruner

REPEATS = 3
PAGE = """# Trainings in the manner of public projects

**What it shows.** Adding the callback changes nothing but what it says, up to the event, and never ends a training that
would have gone on. That was tried with public projects, and is tried anew by one command with {count} small modules
that are written in their manner, with their habits (`tests/zoo/trainings`).

**{free} of {count} need no argument but the sparsity**; of these, {asked} are calibrated by another forward pass than
the default, which a warning names. {lost} of {count} lost anything.

## In their manner

Each is trained for {epochs} epochs of 8 batches, with `Reflow(0.7, schedule=OneShot(epoch=1))`, the default repair and
the monitor, and without it. *Lost* is empty if: all parameters, buffers and torch's random state are equal to the bit
after each batch up to the event; one event happens; no pruned weight is other than zero after any batch and in any
validation after it; a training resumed from a checkpoint ends with the bits of the unbroken one, where it does so
without the callback; and the checkpoint loads into the module in a process that can't import this package. *ms* is the
median time of a batch before the event, without and with the callback, of {repeats} trainings each, in turn.

{table}

{caption}: `python benchmarks/trainings.py`

## What an event needs of memory

The most that tensors take at once while a network is pruned and repaired, beyond the network and its batches, as a
multiple of its weights: one copy to put back and to compare with, one bit a weight for its masks, and what one layer
is worked on with. A training then holds its masks in bools as well, a byte a weight. `reconstruct` holds the Gram
matrix of one layer in float64, and what a pass holds between two layers for each batch that waits (`held_bytes`). The
monitor holds at most 8 MiB a layer and what the layers put out.

{memory}

{caption}

## In public projects

The callback was put, unchanged, into projects as they are, with little data and seeds set; nothing else was changed.
The checks are those above, at sparsity 0.8. The metric comes from the first validation after the event, or is the loss
of training where there is no validation. The command above does not repeat these rows: the projects are not part of
this repository, and neither are the scripts that ran them.

{projects}

{projects_caption}
"""


def row(training: Training, outcome: Outcome) -> Row:
    """A line of the table."""
    given = ", ".join(f"`{name}`" for name in training.reflow)
    return {
        "training": training.name.replace("_", " "),
        "what it tries": training.exercises,
        "given": given,
        "repaired": f"{outcome.repaired} layers",
        "ms": f"{1000 * outcome.plain:.1f}, {1000 * outcome.ours:.1f}",
        "lost": "; ".join(outcome.lost),
    }


def without_the_package(saved: Sequence[tuple[Training, Path]]) -> list[str]:
    """The names of the trainings whose checkpoint can't be loaded in a process that can't import this package."""
    names = json.dumps([[training.name, str(path)] for training, path in saved])
    command = [sys.executable, str(Path(__file__).with_name("trainings_load.py")), names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def memory() -> list[Row]:
    """Peak memory of an event by network and repair, over the weights."""
    import torchvision

    torch.manual_seed(SEED)
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
    cases = [
        ("ResNet-50", torchvision.models.resnet50(), (4, 3, 64, 64), ("none", "batchnorm", "auto")),
        ("transformer of 12 layers", encoder, (8, 16, 256), ("none", "auto", "moments", "reconstruct")),
    ]
    rows: list[Row] = []
    for name, model, shape, repairs in cases:
        batches = [torch.randn(shape) for _ in range(2)]
        weights = sum(parameter.nbytes for parameter in model.parameters())
        for repair in repairs:
            shares = []
            for monitor in (False, True):
                pruner = Pruner(0.8, repair=repair, monitor=monitor, calibration_batches=2)
                network = copy.deepcopy(model)
                most = peak_bytes(lambda p=pruner, n=network, b=batches: p.apply(n, b))  # type: ignore[misc]
                shares.append(f"{most / weights:.2f}")
            rows.append(
                {
                    "network": f"{name}, {weights / 1e6:.0f} MB",
                    "repair": f"`{repair}`",
                    "without the monitor": shares[0],
                    "with it": shares[1],
                }
            )
    return rows


def main() -> int:
    """Try all, and write."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    outcomes: list[tuple[Training, Outcome]] = []
    with tempfile.TemporaryDirectory() as folder:
        for training in TRAININGS:
            outcome = attempt(training, Path(folder) / training.name, REPEATS)
            outcomes.append((training, outcome))
            print(f"{training.name}: lost {list(outcome.lost)}", flush=True)
        saved = [(training, Path(folder) / training.name / f"epoch={EVENT}.ckpt") for training in TRAININGS]
        unloadable = without_the_package(saved)
    print(f"not loaded without the package: {unloadable}", flush=True)
    projects = json.loads((ROOT / "benchmarks" / "results" / "public_projects.json").read_text())
    free = [outcome for training, outcome in outcomes if not training.reflow]
    lost = sum(bool(outcome.lost) or training.name in unloadable for training, outcome in outcomes)
    page = PAGE.format(
        count=len(TRAININGS),
        free=len(free),
        asked=sum(any("forward=" in message for message in outcome.warned) for outcome in free),
        lost=lost or "None",
        epochs=EVENT + 1,
        repeats=REPEATS,
        table=markdown([row(*both) for both in outcomes]).replace("--:", "---"),
        memory=markdown(memory()),
        caption=f"{environment()}, seed {SEED}, {date.today().isoformat()}",
        projects=markdown(projects["rows"]).replace("--:", "---"),
        projects_caption=f"{projects['environment']}, seed {projects['seed']}, {projects['date']}",
    )
    (ROOT / "docs" / "trainings.md").write_text(page)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
