"""One prune event: dense -> pruned -> repaired, or nothing at all. Plain PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reflow_lightning.calibration import Calibration
from reflow_lightning.pruning import Masks
from reflow_lightning.signal import SignalReport

STAGES = ("dense", "pruned", "repaired")


@dataclass(frozen=True)
class PruneEvent:
    """What one prune event did.

    Attributes:
        step: Optimizer steps done before.
        sparsity: Share of the selected weights that are pruned since.
        sparsities: The same by parameter name.
        calibration: What the repair did.
        seconds: Time taken, by ``"prune"`` and ``"repair"``.
        signal: The signal of the dense, the pruned and the repaired network, if it was measured.
    """

    step: int
    sparsity: float
    sparsities: Mapping[str, float]
    calibration: Calibration
    seconds: Mapping[str, float]
    signal: Mapping[str, SignalReport] = field(default_factory=dict)


@contextmanager
def restoring(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put the tensors back, bit for bit, if the block raises."""
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(before[name])
        raise


def prune_and_repair(
    model: nn.Module,
    choose: Callable[[], Masks],
    repair: Callable[[], Calibration],
    reached: Callable[[str], None],
    step: int = 0,
) -> tuple[PruneEvent, Masks]:
    """Prune a model in place and repair it; if anything fails, it is as it was.

    Args:
        model: The model.
        choose: Chooses the masks, and changes nothing.
        repair: Repairs the pruned model; leaves it unchanged if it raises.
        reached: Called with each of `STAGES` when the model is in that state.
        step: For the record.

    Returns:
        What was done, and the masks.
    """
    start = time.perf_counter()
    masks = choose()
    seconds = {"prune": time.perf_counter() - start}
    calibration = Calibration((), {}, 0, 0.0)
    with restoring(dict(zip(masks, masks.parameters(model), strict=True))):
        try:
            reached("dense")
            start = time.perf_counter()
            masks.apply(model)
            seconds["prune"] += time.perf_counter() - start
            reached("pruned")
            start = time.perf_counter()
            calibration = repair()
            seconds["repair"] = time.perf_counter() - start
            reached("repaired")
        except BaseException:
            calibration.undo()
            raise
    return PruneEvent(step, masks.sparsity, masks.sparsities, calibration, seconds), masks
