"""Whether the running statistics of a dense network are older than its weights, so that it is no model to follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.batchnorm import population_statistics, write_statistics
from reflow_lightning.calibration.drift.check import is_trained
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.outputs import logits_of, numbers_of
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.running.sharding import is_spread
from reflow_lightning.running.snapshot import Snapshot

STALE = 0.5
"""Part of the outputs' spread by which fresh statistics may move them.

Well-trained networks are at a tenth and below. Early in a training, and with a high learning rate, weights move faster
than the running averages follow.
"""

READ = 10
"""So many calibration batches make fresh statistics."""

_COMPARED = 2  # calibration batches whose outputs are compared
_BEGUN = 10  # batches seen in training; before, running averages mostly hold their initial values


def has_begun(dense: nn.Module) -> bool:
    """Whether the BatchNorm layers of a network, if it has any, have seen more than a few batches.

    Before that its outputs are nothing to follow, stale or not.

    Example:
        >>> has_begun(nn.Linear(2, 2)), has_begun(nn.BatchNorm1d(2))
        (True, False)
    """
    return not batchnorm_layers(dense) or is_trained(dense, _BEGUN)


def warn_if_stale(dense: nn.Module, batches: Iterable[Any], forward: Forward, done: str) -> None:
    """Warn that layers will be fitted to outputs that the dense network gives with stale statistics only.

    Nothing is said of a network whose training has not begun, see `has_begun`.

    Args:
        dense: The dense network, in eval mode; it is left unchanged.
        batches: The calibration batches.
        forward: Runs a network on a batch.
        done: What is done to the layers, in words.
    """
    moved = staleness(dense, batches, forward) if has_begun(dense) else 0.0
    if moved > STALE:
        warn(
            f"fresh BatchNorm statistics would move the dense network's outputs by {moved:.0%} of their spread: its "
            f"running averages lag behind its weights, and layers that are {done} follow them. Use repair='auto', "
            "which does not, prune later or at a lower learning rate, or call calibrate(model, loader, "
            "repair='batchnorm') before the pruning"
        )


@torch.no_grad()
def staleness(dense: nn.Module, batches: Iterable[Any], forward: Forward) -> float:
    """How far fresh BatchNorm statistics move the outputs of a network, over the spread of these outputs.

    It takes a forward pass of each of the first ten batches. The result is zero without BatchNorm, where the outputs
    have no spread, and for networks whose parameters are spread over processes.

    Example:
        >>> from reflow_lightning.running.forward import default_forward
        >>> batches = [3 + torch.randn(64, 4) for _ in range(4)]
        >>> staleness(nn.Sequential(nn.BatchNorm1d(4)).eval(), batches, default_forward) > 1
        True
    """
    layers = batchnorm_layers(dense)
    if not layers or is_spread(dense):
        return 0.0
    first = list(islice(batches, READ))

    def outputs() -> list[Tensor]:
        with isolated_rng():  # so that a forward pass that draws numbers draws the same ones again
            return [_values(forward(dense, batch)) for batch in first[:_COMPARED]]

    try:
        stored = outputs()
        with refreshed(dense, first, forward):
            fresh = outputs()
    except ValueError:  # of batches that allow no statistics, which the repair itself says
        return 0.0
    moved = sum(float((a - b).square().sum()) for a, b in zip(stored, fresh, strict=True))
    spread = sum(float((values - values.mean(0)).square().sum()) for values in fresh)
    moved, spread = (sum(parts) for parts in zip(*gather((moved, spread)), strict=True))
    return (moved / spread) ** 0.5 if spread else 0.0


@contextmanager
def refreshed(dense: nn.Module, batches: Iterable[Any], forward: Forward) -> Iterator[None]:
    """A block in which the BatchNorm layers of a network have statistics of these batches.

    Raises:
        ValueError: If the batches allow no statistics.
    """
    layers = batchnorm_layers(dense)
    before = Snapshot.of_buffers(layers.values())
    try:
        with isolated_rng():
            write_statistics(dense, population_statistics(dense, batches, forward, layers), layers)
        yield
    finally:
        before.restore()


def _values(output: Any) -> Tensor:
    """The first tensor of numbers in an output; a single zero if there is none."""
    found = numbers_of(logits_of(output))
    return found[0].float() if found else torch.zeros(1)
