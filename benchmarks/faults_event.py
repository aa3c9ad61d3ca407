"""A prune event that fails, or is interrupted, at any of its steps."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import torch
from faults_outcome import Outcome, differences, in_child
from faults_training import BATCHES, MIN_KEPT, SPARSITY, Batches, Classifier, quiet_trainer
from torch import Tensor, nn

from reflow_lightning import Reflow


class BoomError(Exception):
    """What the faults raise."""


def everything(module: nn.Module) -> dict[str, Any]:
    """All that an event may change in a module."""
    return {
        "values": {name: value.clone() for name, value in module.state_dict().items()},
        "flags": [part.training for part in module.modules()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "random state": torch.get_rng_state(),
    }


def raise_in_forward(times: int, folder: Path, chance: Random) -> Outcome:
    """The forward pass raises, at each of the passes that the event makes."""

    def arguments(k: int) -> dict[str, Any]:
        calls = count()

        def forward(model: nn.Module, batch: Any) -> Any:
            if next(calls) == k:
                raise BoomError
            return model(batch[0])

        return {"forward": forward}

    return _at_each(times, arguments, BoomError, "")


def raise_in_loader(times: int, folder: Path, chance: Random) -> Outcome:
    """The calibration batches end in an error, after each number of batches."""

    def arguments(k: int) -> dict[str, Any]:
        read = count()

        def batches() -> Iterator[Any]:
            for batch in Batches():
                if next(read) == k:
                    raise BoomError
                yield batch

        return {"calibration_data": batches}

    return _at_each(times, arguments, BoomError, "")


def nan_in_calibration(times: int, folder: Path, chance: Random) -> Outcome:
    """One of the calibration batches holds a NaN, each in turn."""

    def arguments(k: int) -> dict[str, Any]:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for i, (images, labels) in enumerate(Batches()):
                spoilt = images.clone()
                spoilt[0, 0, 0, 0] = float("nan") if i == k else spoilt[0, 0, 0, 0]
                yield spoilt, labels

        return {"calibration_data": batches}

    return _at_each(min(times, BATCHES), arguments, ValueError, "layer 'net.1'")


def interrupt(times: int, folder: Path, chance: Random) -> Outcome:
    """Ctrl-C (SIGINT) at a random moment of the event: the network is as before, or the event is over."""
    return in_child(interrupt_here, times, chance)


def interrupt_here(times: int, chance: Random) -> Outcome:
    """In a child, which nobody minds being interrupted too late."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outcome, seconds = Outcome(), _seconds_of_an_event()
    while outcome.tried < times:
        torch.manual_seed(outcome.tried)
        module, reflow, batches = Classifier(), _reflow(), list(Batches())
        before, interrupted = everything(module), False
        timer = threading.Timer(chance.uniform(0, seconds), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            reflow.apply(module, batches)
            timer.join()
            time.sleep(0.001)
        except KeyboardInterrupt:
            interrupted = not reflow.events
        timer.join()
        if interrupted:  # else the event was over before
            outcome.tried += 1
            if differences(everything(module), before) and _is_over(module, seed=outcome.tried - 1):
                outcome.seen["event just over, network pruned and repaired"] += 1
            else:
                _judge(outcome, reflow, before, module)
    return outcome


def _is_over(module: nn.Module, seed: int) -> bool:
    """Whether the whole event happened to the network, as it would have without an interrupt."""
    torch.manual_seed(seed)
    undisturbed = Classifier()
    _reflow().apply(undisturbed, list(Batches()))
    return not differences(everything(module), everything(undisturbed))


def _at_each(times: int, arguments: Callable[[int], dict[str, Any]], kind: type[Exception], words: str) -> Outcome:
    """Let a training fail at its k-th possibility, for each k; afterwards its module must be as before."""
    outcome = Outcome()
    for k in range(times):
        torch.manual_seed(k)
        module = Classifier()
        reflow = _reflow(**arguments(k))
        trainer = quiet_trainer(reflow, max_steps=1)
        before = everything(module)
        try:
            trainer.fit(module, Batches())
        except kind as error:
            if words not in str(error):
                outcome.damage.append(f"the error does not say {words}: {error}")
        else:
            break  # there were only k possibilities
        outcome.tried += 1
        _judge(outcome, reflow, before, module)
        outcome.damage += ["the optimizer has a state"] * bool(trainer.optimizers[0].state)
    return outcome


def _judge(outcome: Outcome, reflow: Reflow, before: dict[str, Any], module: nn.Module) -> None:
    changed = differences(everything(module), before)
    outcome.damage += [f"{path[1:]} differs" for path in changed]
    outcome.damage += ["there are masks"] * (reflow.masks is not None) + ["there is an event"] * len(reflow.events)
    outcome.seen["network as before"] += not changed


def _reflow(**arguments: Any) -> Reflow:
    return Reflow(SPARSITY, min_kept=MIN_KEPT, **{"calibration_batches": BATCHES} | arguments)


def _seconds_of_an_event() -> float:
    module, batches = Classifier(), list(Batches())
    _reflow().apply(module, batches)  # the first takes longer
    start = time.perf_counter()
    _reflow().apply(Classifier(), batches)
    return time.perf_counter() - start
