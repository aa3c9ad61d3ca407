"""Processes that are killed (SIGKILL) while they prune, calibrate or write, again and again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import torch
from faults_outcome import Outcome, differences, start
from faults_training import BATCHES, SlowIO, train

from reflow_lightning import Masks

PHASES = ("pruning", "calibrating", "writing a checkpoint")
LONGEST_WAIT = 0.015  # seconds from the beginning of a phase to the kill; each lasts about so long


def kill_training(
    phases: Sequence[str], times: int, folder: Path, chance: Random, writer: type[SlowIO] = SlowIO
) -> Outcome:
    """Kill a training in these phases, by turns, and start it again from its last checkpoint, until it is done.

    Every checkpoint that is there after a kill must be, bit for bit, that of the same step of a training that was left
    alone: weights, BatchNorm buffers, masks, optimizer, scheduler. And so must the last one.
    """
    outcome = Outcome()
    epochs = times // 2 + 4  # long enough for most of the kills
    alone, killed = folder / "alone", folder / "killed"
    alone.mkdir()
    killed.mkdir()
    _live(alone, _never, epochs, keep_all=True)
    done = False
    while not done and not outcome.damage:
        wanted = phases[outcome.tried % len(phases)]
        strike = _at_random(wanted, chance) if outcome.tried < times else _never
        messages = _live(killed, strike, epochs, writer=writer)
        if messages[-1][0] == wanted:  # else the phase was over before the signal arrived
            outcome.tried += 1
            outcome.seen["killed while " + wanted] += 1
            halves = list(killed.glob("tmp*"))
            outcome.seen["half-written file left beside"] += len(halves)
            for half in halves:
                half.unlink()
        _judge(outcome, killed, alone, messages)
        done = messages[-1][0] == "done"
        if done and outcome.tried < times:  # once more, from the beginning
            (killed / "last.ckpt").unlink()
            done = False
    return outcome


def kill_masks(times: int, folder: Path, chance: Random, save: Callable[[Masks, Path], None] = Masks.save) -> Outcome:
    """Kill a process that writes one file of masks over another; then it must hold the one or the other."""
    outcome = Outcome()
    path = folder / "masks.pt"
    both = [Masks({"weight": torch.rand(1000, 1000, generator=torch.Generator().manual_seed(i)) > 0.5}) for i in (0, 1)]
    both[0].save(path)
    for _ in range(times):
        child, pipe = start(write_masks, both, path, save)
        pipe.recv()
        time.sleep(chance.uniform(0, LONGEST_WAIT))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        outcome.tried += 1
        outcome.seen["half-written file left beside"] += len(list(folder.glob(".masks.pt.*")))
        for left in folder.glob(".masks.pt.*"):
            left.unlink()
        try:
            found = Masks.load(path)
        except ValueError as error:
            outcome.damage.append(str(error))
        else:
            outcome.seen["the file of before, or the new one"] += found in both
            if found not in both:
                outcome.damage.append("other masks than were ever written")
    return outcome


def write_masks(pipe: Connection, both: Sequence[Masks], path: Path, save: Callable[[Masks, Path], None]) -> None:
    """Write one after the other, for ever."""
    torch.set_num_threads(1)
    pipe.send("ready")
    while True:
        for masks in both:
            save(masks, path)


def _at_random(wanted: str, chance: Random) -> Callable[[str], bool]:
    """Wait for the beginning of a phase, the first to third time that it comes, then until a moment within it."""
    left, before = chance.randint(1, 3), ""

    def strike(phase: str) -> bool:
        nonlocal left, before
        left, before = left - (phase == wanted != before), phase
        if left:
            return False
        time.sleep(chance.uniform(0, LONGEST_WAIT))
        return True

    return strike


def _never(phase: str) -> bool:
    return False


def _live(
    folder: Path, strike: Callable[[str], bool], epochs: int, keep_all: bool = False, writer: type[SlowIO] = SlowIO
) -> list[tuple[str, int]]:
    """Train in a child until it is done, or killed because ``strike`` says so; what it said until then."""
    child, pipe = start(train, folder, epochs, keep_all, writer)
    messages: list[tuple[str, int]] = []
    struck = False
    try:
        while True:
            messages.append(pipe.recv())
            if not struck and strike(messages[-1][0]):
                os.kill(child.pid, signal.SIGKILL)
                struck = True  # what it said before is still in the pipe
    except EOFError:
        child.join()
    if child.exitcode != (-signal.SIGKILL if struck else 0) and messages[-1:] != [("done", epochs * BATCHES)]:
        raise RuntimeError(f"the training ended with {child.exitcode} after {messages[-3:]}")
    return messages


def _judge(outcome: Outcome, killed: Path, alone: Path, messages: Sequence[tuple[str, int]]) -> None:
    """Compare what lies on the disk with what should."""
    reached = 0
    for path in killed.glob("*.ckpt"):
        try:
            found = torch.load(path, weights_only=True)
        except Exception as error:  # whatever half a file raises
            outcome.damage.append(f"{path.name} does not load ({type(error).__name__})")
            continue
        reached = found["global_step"]
        expected = torch.load(alone / f"step={reached}.ckpt", weights_only=True)
        outcome.damage += differences(_ours(found), _ours(expected), f"step {reached}: ")
    saved = max((step for phase, step in messages if phase == "saved"), default=0)
    if reached < saved:
        outcome.damage.append(f"the checkpoint of step {saved} is gone")
    if messages[-1][1] != reached:
        outcome.steps.append(messages[-1][1] - reached)


def _ours(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without Lightning's own counters of loops and paths of files, which a restart changes."""
    callbacks = {key: state for key, state in checkpoint["callbacks"].items() if key.startswith("Reflow")}
    return {key: value for key, value in checkpoint.items() if key != "loops"} | {"callbacks": callbacks}


kill_while_pruning, kill_while_calibrating, kill_while_writing = (partial(kill_training, (phase,)) for phase in PHASES)
