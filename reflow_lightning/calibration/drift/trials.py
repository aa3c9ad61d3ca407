"""A few batches, to try on what may explain a difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.drift.observing import Change, Observation, merged, observe
from reflow_lightning.running.compat.torch import RunningNorm
from reflow_lightning.running.forward import Forward


@dataclass(frozen=True)
class Trials:
    """What causes are tried on.

    Attributes:
        model: The dense network.
        batches: A few batches of this process.
        forward: Runs the model on a batch.
        seen: What the model saw of these batches.
    """

    model: nn.Module
    batches: Sequence[Any]
    forward: Forward
    seen: Observation

    def observe(self, change: Change | None = None, training: Sequence[nn.Module] = ()) -> Observation:
        """What the model sees of the batches with a changed input, or with modules in train mode."""
        return observe(self.model, self.batches, self.forward, change, training)


class Shift(NamedTuple):
    """How much another are the moments of a layer in train mode, by channel: what dropout before it adds.

    Attributes:
        mean: Of the mean.
        square: Of the mean squared deviation from the stored mean.
        noise: The sampling variance of both, of shape (2, C).
    """

    mean: Tensor
    square: Tensor
    noise: Tensor


def shifts_in_training(trials: Trials) -> dict[str, Shift]:
    """What dropout and its like add to the moments of layers, on the same samples in both modes.

    The stored statistics are of train mode, in which dropout or a dropped path before a layer adds to its variance. All
    is put in train mode but the norms, which go on to normalise by what they have stored.

    Returns:
        By layer, if it makes a difference there; nothing for a model that can't be run so.
    """
    modules = [module for module in trials.model.modules() if not isinstance(module, RunningNorm)]
    try:
        trained = trials.observe(training=modules)
    except Exception:  # a model may want more in train mode, such as targets, and raise anything without
        return {}
    shifts = {}
    for name, found in trials.seen.layers.items():
        if name in trained.layers and len(trained.layers[name]) == len(found):
            there, here = merged(trained.layers[name]), merged(found)
            if not torch.equal(there, here):
                noise = (there[:, 2] + here[:, 2]) / here[:, 0].square()
                shifts[name] = Shift(there[0, 1] - here[0, 1], there[1, 1] - here[1, 1], noise)
    return shifts
