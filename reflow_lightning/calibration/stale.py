"""Whether the running statistics of a dense network are older than its weights, so that it is no model to follow."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.batchnorm import population_statistics, write_statistics
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.arguments import tensors_of
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.outputs import logits_of
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.running.sharding import is_spread
from reflow_lightning.running.snapshot import Snapshot

STALE = 0.5
"""Part of the outputs' spread by which fresh statistics may move them.

Well-trained networks are at a tenth and below. Early in a training, and with a high learning rate, weights move faster
than the running averages follow.
"""

_COMPARED = 2  # batches whose outputs are compared
_FEW = 10  # batches in training, after which a running average still holds a third of its initial values


def warn_if_stale(dense: nn.Module, batches: Iterable[Any], forward: Forward, done: str) -> None:
    """Warn that layers will be fitted to outputs that the dense network gives with stale statistics only.

    A network that has seen hardly a batch has nothing to follow, stale or not.

    Args:
        dense: The dense network, in eval mode; it is left unchanged.
        batches: The calibration batches.
        forward: Runs a network on a batch.
        done: What is done to the layers, in words.
    """
    moved = staleness(dense, batches, forward) if _has_learnt(dense) else 0.0
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

    Zero without BatchNorm, of outputs without a spread, and of networks that are spread over processes.

    Example:
        >>> from reflow_lightning.running.forward import default_forward
        >>> batches = [3 + torch.randn(64, 4) for _ in range(4)]
        >>> staleness(nn.Sequential(nn.BatchNorm1d(4)).eval(), batches, default_forward) > 1
        True
    """
    layers = batchnorm_layers(dense)
    if not layers or is_spread(dense):
        return 0.0
    compared = list(islice(batches, _COMPARED))
    stored = [_values(forward(dense, batch)) for batch in compared]
    before = Snapshot.of_buffers(layers.values())
    try:
        write_statistics(dense, population_statistics(dense, batches, forward, layers), layers)
        fresh = [_values(forward(dense, batch)) for batch in compared]
    except ValueError:  # of batches that allow no statistics, which the repair itself says
        return 0.0
    finally:
        before.restore()
    moved = sum(float((a - b).square().sum()) for a, b in zip(stored, fresh, strict=True))
    spread = sum(float((values - values.mean(0)).square().sum()) for values in fresh)
    moved, spread = (sum(parts) for parts in zip(*gather((moved, spread)), strict=True))
    return (moved / spread) ** 0.5 if spread else 0.0


def _has_learnt(model: nn.Module) -> bool:
    """Whether the statistics are of more than a few batches; some weights do not say of how many."""
    layers = batchnorm_layers(model).values()
    seen = max((int(n) for layer in layers if (n := layer.num_batches_tracked) is not None), default=0)
    return seen >= _FEW if seen else any(bool(layer.get_buffer("running_mean").any()) for layer in layers)


def _values(output: Any) -> Tensor:
    """The numbers of an output, with a row for each sample where all its parts have as many."""
    found = [tensor.float() for tensor in tensors_of(logits_of(output)) if tensor.is_floating_point() and tensor.ndim]
    return found[0] if found else torch.zeros(1)
