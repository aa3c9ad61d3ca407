"""What processes do together when they repair by writing weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from reflow_lightning import Pruner, calibrate
from reflow_lightning.calibration import Align, Repair, best, matching, recipes
from scenarios.processes import error_of, mine, named, on_the_last
from scenarios.thinned import bits, make

NAMES = ("batchnorm", "layernorm", "attention", "gru")
REPAIRS = ("moments", "reconstruct", "auto")
ALIGN = Align(steps=30, lr=0.05)
ALL = (*REPAIRS, "reselect", ALIGN)
SIZES = (20, 7, 30, 13, 26)


def parts(name: str) -> tuple[nn.Module, nn.Module, list[Tensor]]:
    """Networks as `make` has them, and batches of different sizes."""
    model, dense, (batch,) = make(name, 1, size=sum(SIZES))
    return model, dense, list(batch.split(SIZES))


def repaired(name: str, repair: Repair | str, batches: list[Any]) -> dict[str, Any]:
    model, dense, _ = parts(name)
    result = calibrate(model, batches, repair=repair, reference=dense, max_batches=len(batches))
    state, before = dict(model.state_dict()), bits(parts(name)[0])
    state = {key: value.clone() for key, value in state.items()}
    result.undo()
    return {"state": state, "repaired": list(result.repaired), "undone": bits(model) == before}


def _by_each(own: Any) -> dict[str, Any]:
    return {f"{name} {repair}": repaired(name, repair, own(parts(name)[2])) for name in NAMES for repair in ALL}


def uneven_batches(_: Path) -> dict[str, Any]:
    return _by_each(mine)


def all_batches_on_the_last(_: Path) -> dict[str, Any]:
    return _by_each(on_the_last)


def devices_that_round_differently(_: Path) -> dict[str, Any]:
    """Each process computes other corrections, by more than any device would."""

    def correction(*arguments: Any) -> tuple[Tensor, Tensor]:
        gain, shift = exact(*arguments)
        return gain * (1 + 1e-3 * dist.get_rank()), shift

    exact = matching.correction
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "correction", correction)
        return {name: repaired(name, "moments", mine(parts(name)[2])) for name in NAMES}


def zeros_that_differ(_: Path) -> dict[str, Any]:
    """The second process has lost a row more."""
    found = {}
    for repair in ("reconstruct", "reselect"):
        model, dense, batches = parts("layernorm")
        weight = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
        left = int(weight.count_nonzero())
        if dist.get_rank():
            weight.data[0].zero_()
        calibrate(model, mine(batches), repair=repair, reference=dense, max_batches=len(batches))
        found[repair] = {"state": dict(model.state_dict()), "before": left, "after": int(weight.count_nonzero())}
    return found


def wrapped_in_ddp(_: Path) -> dict[str, Any]:
    """With BatchNorm, whose buffers DDP sends in each pass: processes with other numbers of batches must not wait."""
    found = {}
    for repair in ALL:
        model, _, batches = parts("batchnorm")
        wrapped = nn.parallel.DistributedDataParallel(model)
        Pruner(0.6, repair=repair, monitor=False, calibration_batches=5).apply(wrapped, mine(batches))
        synced = wrapped.require_forward_param_sync and wrapped.require_backward_grad_sync
        found[str(repair)] = {"state": dict(model.state_dict()), "synced": synced}
    return found


def a_forward_pass_that_breaks_on_one(_: Path) -> dict[str, str]:
    """In the first pass, and in a later one."""
    raised = {}
    for name in NAMES:
        for repair in ALL:
            for fails_at in (2, 5):
                model, dense, batches = parts(name)
                before, seen = bits(model), []

                def forward(network: nn.Module, batch: Any, seen: list[int] = seen, at: int = fails_at) -> Any:
                    seen.append(1)
                    if dist.get_rank() == 1 and len(seen) == at:
                        raise ZeroDivisionError("on rank 1")
                    return network(batch)

                how = {"repair": repair, "reference": dense, "max_batches": 5, "forward": forward}
                raised[f"{name} {repair} {fails_at}"] = error_of(calibrate, model, batches, **how)
                assert bits(model) == before
    return raised


def a_value_that_is_not_finite_on_one(_: Path) -> dict[str, str]:
    raised = {}
    for repair in ALL:
        model, dense, batches = parts("layernorm")
        if dist.get_rank() == 1:
            batches[0][0] = torch.nan
        before = bits(model)
        raised[str(repair)] = error_of(calibrate, model, batches, repair=repair, reference=dense, max_batches=5)
        assert bits(model) == before
    return raised


def no_batch_on_any(_: Path) -> dict[str, str]:
    raised = {}
    for repair in ALL:
        model, dense, _ = parts("batchnorm")
        before = bits(model)
        raised[str(repair)] = error_of(calibrate, model, [], repair=repair, reference=dense, max_batches=0)
        assert bits(model) == before
    return raised


def a_later_pruning_that_breaks_on_one(_: Path) -> str:
    model, _, batches = parts("layernorm")
    before, calls = bits(model), []

    def criterion(name: str, weight: Tensor) -> Tensor:
        calls.append(name)
        if dist.get_rank() == 1 and len(set(calls)) < len(calls):  # in the second pruning
            raise ZeroDivisionError("on rank 1")
        return weight.abs()

    pruner = Pruner(0.8, steps=3, criterion=criterion, repair="none", monitor=False, calibration_batches=5)
    raised = error_of(pruner.apply, model, batches)
    assert bits(model) == before
    return raised


def the_best_in_a_time(_: Path) -> dict[str, Any]:
    """Rank 1 is slower, so that it decides; the batches lie on the last."""
    model, _, batches = parts("batchnorm")
    pruner = Pruner(0.8, repair="best", budget=100, monitor=False, calibration_batches=5)
    own = on_the_last(batches)
    with pytest.MonkeyPatch.context() as patch:
        found = best.Pace(1.0, 0.0, len(own)) if dist.get_rank() else best.Pace(0.0, 0.0, 0)
        patch.setattr(best, "pace_of", lambda *_: found)
        patch.setattr(recipes, "_MOST_STEPS", 100)
        event = pruner.apply(model, own)
    return {"state": dict(model.state_dict()), "recipe": event.recipe}


def as_many_as_needed(_: Path) -> dict[str, Any]:
    """Rank 0 has more batches than are needed, rank 1 has two."""
    found = {}
    for repair in ALL:
        model, dense, _ = make("layernorm", 1)
        generator = torch.Generator().manual_seed(dist.get_rank())
        batches = [torch.randn(256, 8, generator=generator) for _ in range(2 if dist.get_rank() else 90)]
        result = calibrate(model, batches, repair=repair, reference=dense, max_batches="auto")
        found[str(repair)] = {"batches": result.batches, "state": dict(model.state_dict())}
    return found


SCENARIOS = named(
    uneven_batches,
    all_batches_on_the_last,
    wrapped_in_ddp,
    a_forward_pass_that_breaks_on_one,
    a_value_that_is_not_finite_on_one,
    no_batch_on_any,
    a_later_pruning_that_breaks_on_one,
    the_best_in_a_time,
    as_many_as_needed,
    devices_that_round_differently,
    zeros_that_differ,
)
