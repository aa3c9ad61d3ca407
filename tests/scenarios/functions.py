"""What processes do together in the tests: plain functions of a folder, run in every process at once."""

from __future__ import annotations

import copy
import signal
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers import images
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import Reflow, calibrate, measure_signal, prune
from reflow_lightning.calibration import BatchNormStatistics
from reflow_lightning.running.processes import gather, together
from scenarios.processes import error_of, mine, named, values

BATCHES = [images(16, seed=seed) for seed in range(7)]
LABELLED = [(batch, torch.arange(16) % (i + 2)) for i, batch in enumerate(BATCHES)]  # each batch has a class of its own


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return small_net()


def _prune_calibrate_measure(batches: list[Any], model: nn.Module) -> dict[str, Any]:
    dense = copy.deepcopy(model)
    masks = prune(model, 0.5, criterion="random")
    result = calibrate(model, batches, max_batches=len(batches))
    signal = measure_signal(model, batches, reference=dense, max_batches=len(batches)).to_dict()
    return {"masks": masks.state_dict(), "state": values(model), "signal": signal, "batches": result.batches}


def uneven(_: Path) -> dict[str, Any]:
    return _prune_calibrate_measure(mine(BATCHES), network())


def empty_on_the_first(_: Path) -> dict[str, Any]:
    others = dist.get_rank() - 1
    batches = BATCHES[others :: dist.get_world_size() - 1] if others >= 0 else []
    return _prune_calibrate_measure(batches, network())


def empty_on_the_last(_: Path) -> dict[str, Any]:
    return _prune_calibrate_measure(BATCHES if dist.get_rank() == 0 else [], network())


def labelled(_: Path) -> list[float | None]:
    """Rank 0 alone has labels; rank 1 has a batch without, and further ones have none."""
    batches = LABELLED if dist.get_rank() == 0 else BATCHES[:1] if dist.get_rank() == 1 else []
    rows = measure_signal(network(), batches, max_batches=7).rows
    return [row.class_share for row in rows]


def labelled_everywhere(_: Path) -> list[float | None]:
    rows = measure_signal(network(), mine(LABELLED), max_batches=len(mine(LABELLED))).rows
    return [row.class_share for row in rows]


def empty_everywhere(_: Path) -> None:
    calibrate(network(), [], max_batches=0)


def synchronised(_: Path) -> dict[str, Any]:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    calibrate(model, mine(BATCHES), max_batches=len(mine(BATCHES)))
    return values(model)


def a_batch_that_breaks(_: Path) -> dict[str, Any]:
    model = network()
    before = values(model)
    seen = []

    def breaks(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(1)
        if dist.get_rank() == 1 and len(seen) == 2:
            raise ZeroDivisionError("the second batch of rank 1")

    model[4].register_forward_hook(breaks)
    raised = error_of(calibrate, model, mine(BATCHES), max_batches=len(mine(BATCHES)))
    return {"raised": raised, "before": before, "after": values(model)}


def a_value_that_is_not_finite(_: Path) -> dict[str, Any]:
    model = network()
    before = values(model)
    batches = copy.deepcopy(mine(BATCHES))
    if dist.get_rank() == 1:
        batches[0][0, 0, 0, 0] = float("nan")
    try:
        calibrate(model, batches, max_batches=len(batches))
        raised = "nothing"
    except ValueError as error:
        raised = str(error)
    return {"raised": raised, "before": before, "after": values(model)}


def failures_are_told_once(_: Path) -> list[str]:
    """In nested blocks, before an exchange and after it: every process raises, and goes on in step with the others."""
    raised = []
    for place in ("outer", "inner", "exchange", "nowhere"):
        try:
            with together("outer"):
                with together("inner"):
                    if place == "inner" and dist.get_rank() == 0:
                        raise ValueError(place)
                gather(dist.get_rank())
                if place == "exchange" and dist.get_rank() == dist.get_world_size() - 1:
                    raise ValueError(place)
                gather(dist.get_rank())
                if place == "outer" and dist.get_rank() == 0:
                    raise ValueError(place)
            raised.append("nothing")
        except (ValueError, RuntimeError) as error:
            raised.append(f"{type(error).__name__}: {error}")
    return raised


def a_repair_that_stops_early(_: Path) -> int:
    """Rank 0 has more batches than it wants, the last rank has fewer."""
    batches = BATCHES[:5] if dist.get_rank() == 0 else BATCHES[5:]

    def repair(model: nn.Module, batches: Any, *others: Any) -> Any:
        return BatchNormStatistics()(model, islice(batches, 3), *others)

    return calibrate(network(), batches, repair=repair, max_batches=50).batches


def a_repair_that_breaks(_: Path) -> str:
    def repair(*_: Any) -> Any:
        if dist.get_rank() == 1:
            raise ZeroDivisionError("in the repair")
        return BatchNormStatistics()(*_)

    return error_of(calibrate, network(), mine(BATCHES), repair=repair, max_batches=7)


def the_same_error_twice(_: Path) -> list[str]:
    """One object, as a cached result raises it."""
    error = ZeroDivisionError("again")

    def forward(model: nn.Module, batch: Any) -> Any:
        if dist.get_rank() == 0:
            raise error
        return model(batch)

    return [error_of(calibrate, network(), mine(BATCHES), forward=forward) for _ in range(2)]


def interrupted_while_they_wait(_: Path) -> list[str]:
    """Ctrl-C reaches all processes at once; those that wait for the others hear of it in the middle of an exchange."""
    raised = []
    for late in range(dist.get_world_size()):
        timer = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
        dist.barrier()
        timer.start()
        try:
            with together("outer"), together("inner"):
                if dist.get_rank() == late:
                    time.sleep(1.0)
            raised.append("nothing")
        except BaseException as error:
            raised.append(type(error).__name__)
        timer.join()
        gather("they are in step again")
    return raised


def other_scores(_: Path) -> dict[str, Any]:
    """A criterion that scores otherwise on every rank."""
    model = network()
    before = values(model)
    reflow = Reflow(0.5, criterion=lambda name, weight: (weight + dist.get_rank()).abs())
    return {"raised": error_of(reflow.apply, model, mine(BATCHES)), "before": before, "after": values(model)}


def as_many_as_needed(_: Path) -> list[dict[str, Any]]:
    """Rank 0 has more batches than are needed, the others have two or none; then all of them have too few."""
    found = []
    for lengths in ((60, 2, 0), (3, 2, 0)):
        model, taken = network(), []
        batches = [images(256, seed=10 * dist.get_rank() + i) for i in range(lengths[dist.get_rank()])]
        source = (taken.append(1) or batch for batch in batches)
        result = calibrate(model, source, max_batches="auto")
        found.append({"state": values(model), "batches": result.batches, "taken": len(taken)})
    return found


PLAIN = named(
    uneven,
    empty_on_the_first,
    empty_on_the_last,
    labelled,
    labelled_everywhere,
    empty_everywhere,
    synchronised,
    a_batch_that_breaks,
    a_value_that_is_not_finite,
    failures_are_told_once,
    as_many_as_needed,
    a_repair_that_stops_early,
    a_repair_that_breaks,
    the_same_error_twice,
    interrupted_while_they_wait,
    other_scores,
)
