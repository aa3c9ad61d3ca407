"""Does a loader look like the data that a dense network was trained on?

A network that is re-estimated on other data than it was trained on loses accuracy. Its BatchNorm layers remember what
they saw in training, so that this can be told beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from reflow_lightning.calibration.drift.causes import examine
from reflow_lightning.calibration.drift.distance import SEEN, LayerDrift, batches_are_sorted
from reflow_lightning.calibration.drift.observing import both, observe
from reflow_lightning.calibration.drift.trials import Trials
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.batches import Batches, device_of
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import gather, together, warn
from reflow_lightning.running.units import runnable

_TRIED = 2  # batches on which possible causes are tried


@dataclass(frozen=True)
class DriftReport:
    """Whether batches look like the training data.

    Attributes:
        layers: In the order of the forward pass.
        causes: What likely is behind it, in sentences.
        batches: Number of batches looked at.
    """

    layers: tuple[LayerDrift, ...]
    causes: tuple[str, ...] = ()
    batches: int = 0

    @property
    def worst(self) -> LayerDrift | None:
        """The layer with the largest distance."""
        return max(self.layers, key=_badness, default=None)

    @property
    def drifted(self) -> bool:
        """Whether a layer has drifted, or the batches are sorted."""
        return any(layer.drifted for layer in self.layers) or batches_are_sorted(self.layers)

    def __str__(self) -> str:
        if not self.layers:
            return "no BatchNorm statistics are stored, so nothing tells what the training data looked like"
        if not self.drifted:
            first = self.layers[0]
            alike = f"the batches look like the training data (distance {first.distance:.2g} in '{first.name}')"
            return "; ".join((alike, *self.causes))
        where = (str(self.worst),) if any(layer.drifted for layer in self.layers) else ()
        return "calibration data do not look like the training data: " + "; ".join((*where, *self.causes))


@outside_inference()
def check_drift(
    model: nn.Module, batches: Iterable[Any], forward: AnyForward | None = None, max_batches: int = 10
) -> DriftReport:
    """Compare the stored BatchNorm statistics of a dense network with a loader's, and name likely causes.

    The stored statistics are a running average over the last batches of a training, in train mode, while the weights
    moved; and what it began with may not be forgotten. None of that is a drift of the data:

    - What the average still holds of its initial values, 0 and 1, is taken off: the share that the momentum and the
      number of batches tell, or, as averaged buffers do not tell it, the one that explains most of a distance.
    - What dropout or a dropped path adds in train mode is measured on the same samples in both modes, and taken off.
    - The weights that have moved since show in the later layers, which depend on all of them, and hardly in the first,
      where other data enter. So the first layer alone tells of a drift: from a distance that weights do not explain, or
      from a smaller one if a cause is found. The later ones count only if labels or order tell a cause too.

    So a drift that shows in later layers alone, such as a choice of classes without labels, is not reported.

    It takes a forward pass a batch, in evaluation mode, and up to ten more to find the cause of a drift. The model is
    left unchanged. Where processes run together, call it on all of them; the report is the same on all.

    Args:
        model: The dense network, before it is pruned.
        batches: The batches to calibrate on; labels are looked at if they are the second of a tuple or list, or under
            ``"y"``, ``"label"``, ``"labels"``, ``"target"`` or ``"targets"`` of a dict.
        forward: As for `calibrate`.
        max_batches: At most so many batches.

    Returns:
        The report; empty for a network without BatchNorm.

    Raises:
        ValueError: If there is no batch.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.BatchNorm1d(4))  # remembers mean 0 and variance 1
        >>> check_drift(model, [torch.randn(128, 4) for _ in range(10)]).drifted
        False
        >>> check_drift(model, [5 * torch.randn(128, 4) for _ in range(10)]).drifted
        True
    """
    if not batchnorm_layers(model):
        return DriftReport(())
    moved = Batches(batches, max_batches, device_of(model), task="drift check")
    run = moved.alike(as_forward(forward))
    with isolated_rng(), runnable(model) as network, together("drift check"):
        each = iter(moved)
        kept = list(islice(each, _TRIED))
        trials = Trials(network, kept, run, observe(network, kept, run))
        seen = both(trials.seen, observe(network, each, run))
        moved.exhausted = False  # fewer batches will do
        moved.check()
        rows, causes = gather(examine(trials, seen))[0]  # running statistics of ranks differ: one judgement for all
    return DriftReport(rows, causes, seen.batches)


def is_trained(model: nn.Module, least: int = SEEN) -> bool:
    """Whether the stored statistics tell of training data.

    Those of a network that has seen few batches are still near where they began, or lag behind its weights. Some
    published weights do not say how many it has seen.

    Args:
        model: Any module.
        least: The number of batches that it must have seen, where it says how many.

    Example:
        >>> is_trained(nn.BatchNorm1d(4))
        False
    """
    layers = [layer for layer in batchnorm_layers(model).values() if not is_lazy(layer.get_buffer("running_mean"))]
    seen = max((int(n) for layer in layers if (n := layer.num_batches_tracked) is not None), default=0)
    if seen:
        return seen >= least
    return any(bool(layer.get_buffer("running_mean").any()) for layer in layers)


def warn_of_drift(report: DriftReport) -> None:
    """Warn, on rank zero, of a drift, or that there are too few samples to tell."""
    if report.drifted or report.causes:
        warn(str(report))


def _badness(row: LayerDrift) -> float:
    return math.inf if math.isnan(row.distance) else row.distance
