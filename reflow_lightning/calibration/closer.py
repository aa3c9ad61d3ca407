"""Whether a repair has brought what a network puts out closer to what the dense network does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.stale import READ, has_begun, refreshed
from reflow_lightning.layers.padding import Padding, Valid
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.batches import Batches
from reflow_lightning.running.exact import as_exact, rounding
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.inference import ordinary
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.outputs import logits_of, numbers_of
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.running.saying import unsaid
from reflow_lightning.signal.cosine import CenteredCosine

_LIKE = 0.5
"""Below this cosine with the dense network's outputs, there is little left that a repair could spoil."""

_WORSE = 0.02
"""A cosine that falls by more is worth a warning."""

_ROWS, _COLUMNS = 128, 2048  # of an output are compared: logits of words, or of all pixels, fill gigabytes


class Likeness(NamedTuple):
    """How similar an output of a network is to the same output of the dense one.

    Attributes:
        cosine: The centred cosine between them, from -1 to 1.
        error: The mean square error over the variance of the dense network's.

    Example:
        >>> Likeness(0.8, 0.5).is_worse_than(Likeness(0.9, 0.4)), Likeness(0.8, 0.3).is_worse_than(Likeness(0.9, 0.4))
        (True, False)
    """

    cosine: float
    error: float

    def is_worse_than(self, before: Likeness) -> bool:
        """Whether an output that still had something of the dense network lost it, in direction and in distance.

        One of both alone says little: a signal that gets its strength back may be further away, and outputs that one
        factor had blown up may turn a little while they come close.
        """
        return before.cosine > _LIKE and self.cosine < before.cosine - _WORSE and self.error > before.error


def likeness(values: Tensor, dense: Tensor) -> Likeness | None:
    """How similar an output of two networks is, for the same samples.

    Args:
        values: An output of the pruned network, of shape (N, C).
        dense: The same output of the dense one.

    Returns:
        `Likeness`; ``None`` if the shapes differ, or the dense network's varies by rounding only.

    Example:
        >>> dense = torch.tensor([[1.0], [3.0]])
        >>> likeness(2 * dense, dense), likeness(dense, dense.T)
        (Likeness(cosine=1.0, error=5.0), None)
    """
    if values.shape != dense.shape:
        return None
    found, wanted = as_exact(values), as_exact(dense)
    variance = float(wanted.var(0, correction=0).mean())
    if not variance > float(rounding(dense)):
        return None
    statistic = CenteredCosine(values.shape[1])
    statistic.update(found, wanted)
    return Likeness(float(statistic.value()), float((found - wanted).square().mean()) / variance)


class Closer:
    """Warns if a repair makes an output of a network less like the dense one's than it was, on the first batch.

    A layer that is repaired by itself can't know whether its weight acts elsewhere, too, or what else a network does
    with its outputs. It takes four forward passes. Outputs that can't be compared do not count.

    Args:
        model: The pruned network.
        reference: The dense network.
        batches: The calibration batches.
        forward: Runs a network on a batch.
    """

    def __init__(self, model: nn.Module, reference: nn.Module, batches: Batches, forward: Forward) -> None:
        self._model, self._dense, self._batches, self._forward = model, ordinary(reference), batches, forward
        self._valid = Valid()
        self._before: list[Tensor] = []
        self._fits = has_begun(reference) and _is_copy(reference, model)  # a repair says itself of what is no copy
        for batch in batches.first() if self._fits else ():
            with only_training(model, ()):
                self._valid = Padding(model).of(model, batch, forward)
            self._before = self._outputs(model, batch)

    def check(self) -> None:
        """Warn once the repair is over. Where processes run together, all must call it: the mean over them counts."""
        worse = self._worse()
        if worse and batchnorm_layers(self._dense):
            # Its running statistics may lag behind its weights: the repair then followed the better, fresh ones.
            try:
                with refreshed(self._dense, self._some_batches(), self._forward):
                    worse = self._worse()
            except ValueError:  # of batches that allow no statistics
                return
        if worse and unsaid(["a repair made the network less like the dense one"]):
            old, new = worse[0]
            warn(
                "the repair made the network less like the dense one: on the first batch the cosine between their "
                f"outputs fell from {old.cosine:.2f} to {new.cosine:.2f}. Few batches, or a weight that acts outside "
                "of its layer, may be the reason: give more data, or try another repair; 'align' fits the network as "
                "a whole, and 'batchnorm' writes no weight"
            )

    def _worse(self) -> list[tuple[Likeness, Likeness]]:
        """How like the outputs were that are worse now, and how like they are."""
        before, after = map(_means, zip(*gather(self._compared()), strict=True))
        pairs = [(old, new) for old, new in zip(before, after, strict=True) if old is not None and new is not None]
        return [(old, new) for old, new in pairs if new.is_worse_than(old)]

    def _some_batches(self) -> list[Any]:
        try:
            return list(islice(self._batches, READ))
        except ValueError:  # of an iterator, which is over
            return []

    def _compared(self) -> tuple[list[Likeness | None], list[Likeness | None]]:
        """How like each output was before the repair, and is after it; nothing on a process without batches."""
        before: list[Likeness | None] = []
        after: list[Likeness | None] = []
        for batch in self._batches.first() if self._fits else ():
            dense, now = self._outputs(self._dense, batch), self._outputs(self._model, batch)
            before, after = (list(map(likeness, outputs, dense)) for outputs in (self._before, now))
        return before, after

    @torch.no_grad()
    def _outputs(self, network: nn.Module, batch: Any) -> list[Tensor]:
        """What a network puts out in eval mode: some rows and columns of each tensor, (N, C), without padding."""
        with only_training(network, ()):
            found = numbers_of(logits_of(self._forward(network, batch)))
        return [_sample(values.as_subclass(Tensor), self._valid) for values in found if values.numel()]


def _means(of_processes: Sequence[list[Likeness | None]]) -> list[Likeness | None]:
    """The mean over processes, output by output; ``None`` where an output can't be compared on one of them."""
    outputs = zip(*(of_one for of_one in of_processes if of_one), strict=False)
    return [None if None in output else Likeness(*map(mean, zip(*output, strict=True))) for output in outputs]


def _sample(values: Tensor, valid: Valid) -> Tensor:
    """Rows and columns of an output, spread evenly over it; in sequences each position is a row."""
    if values.ndim == 1:
        return _thinned(values, 0, _ROWS).unsqueeze(1).clone()
    if values.ndim <= 3:
        rows = valid.rows(_thinned(values, -1, _COLUMNS), -1)
        return _thinned(rows.flatten(0, -2), 0, _ROWS).clone()
    return _thinned(_thinned(values, 0, _ROWS).flatten(1), 1, _COLUMNS).clone()


def _thinned(values: Tensor, dim: int, most: int) -> Tensor:
    """At most so many of the slices of a tensor along a dimension, as a view."""
    step = 1 + (values.shape[dim] - 1) // most
    return values.movedim(dim, 0)[::step].movedim(0, dim)


def _is_copy(dense: nn.Module, model: nn.Module) -> bool:
    """Whether a network has the parameters of another, on the same device, as copies of its own."""
    copies, own = dict(dense.named_parameters()), dict(model.named_parameters())
    return copies.keys() == own.keys() and all(
        copies[name].shape == values.shape and copies[name].device == values.device and copies[name] is not values
        for name, values in own.items()
    )
