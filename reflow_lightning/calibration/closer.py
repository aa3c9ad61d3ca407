"""Whether a repair has brought what a network puts out closer to what the dense network does."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

from torch import Tensor, nn

from reflow_lightning.calibration.batchnorm import by_the_batch
from reflow_lightning.calibration.repairable import norms_to_repair
from reflow_lightning.layers.padding import Padding, Valid
from reflow_lightning.running.batches import Batches
from reflow_lightning.running.exact import as_exact
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.inference import ordinary
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.nested import tensors
from reflow_lightning.running.outputs import logits_of
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.signal.cosine import CenteredCosine

_LIKE, _WORSE = 0.5, 0.02
"""A network whose outputs have at least this cosine with the dense one's is worth a warning if it falls by more."""

_ROWS = 128  # of an output are compared: the logits of a language model fill gigabytes


class Likeness(NamedTuple):
    """How like the outputs of a network are to those of the dense one.

    Attributes:
        cosine: The centred cosine between them, from -1 to 1; the mean over the outputs.
        error: The mean square error over the variance of the dense network's; the mean over the outputs.

    Example:
        >>> Likeness(0.8, 0.5).is_worse_than(Likeness(0.9, 0.4)), Likeness(0.8, 0.3).is_worse_than(Likeness(0.9, 0.4))
        (True, False)
    """

    cosine: float
    error: float

    def is_worse_than(self, before: Likeness) -> bool:
        """Whether outputs that still had something of the dense network lost it, in direction and in distance.

        One of both alone says little: a signal that gets its strength back may be further away, and outputs that one
        factor had blown up may turn a little while they come close.
        """
        return before.cosine > _LIKE and self.cosine < before.cosine - _WORSE and self.error > before.error


def likeness(found: Sequence[Tensor], dense: Sequence[Tensor]) -> Likeness | None:
    """How like what two networks put out for the same samples is.

    Args:
        found: Outputs of the pruned network, each of shape (N, C).
        dense: Outputs of the dense one.

    Returns:
        `Likeness`; ``None`` if no output varies and has the same shape in both.

    Example:
        >>> import torch
        >>> dense = torch.tensor([[1.0], [3.0]])
        >>> likeness([2 * dense], [dense]), likeness([dense], [dense.T])
        (Likeness(cosine=1.0, error=5.0), None)
    """
    cosines, errors = [], []
    for values, wanted in zip(found, dense, strict=False):
        if values.shape == wanted.shape and (variance := float(as_exact(wanted).var(0, correction=0).sum())):
            statistic = CenteredCosine(values.shape[1])
            statistic.update(values, wanted)
            cosines.append(float(statistic.value()))
            errors.append(float((as_exact(values) - as_exact(wanted)).square().mean(0).sum()) / variance)
    return Likeness(mean(cosines), mean(errors)) if cosines else None


class Closer:
    """Warns if a repair makes a network less like the dense one than it was, on the first batch.

    A layer that is repaired by itself can't know whether its weight acts elsewhere, too, or what else a network does
    with its outputs. It takes four forward passes.

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
        self._fits = _is_copy(reference, model)  # else the repair says what is wrong
        for batch in batches.first() if self._fits else ():
            with only_training(model, ()):
                self._valid = Padding(model).of(model, batch, forward)
            self._before = self._outputs(model, batch)

    def check(self) -> None:
        """Warn once the repair is over. Where processes run together, all must call it: the mean over them counts."""
        pair: tuple[Likeness, Likeness] | None = None
        for batch in self._batches.first() if self._fits else ():
            # By the batch at hand, since running statistics may be older than the weights.
            with by_the_batch(self._dense, norms_to_repair(self._dense)):
                dense = self._outputs(self._dense, batch)
            before, after = likeness(self._before, dense), likeness(self._outputs(self._model, batch), dense)
            pair = (before, after) if before is not None and after is not None else None
        told = [of_rank for of_rank in gather(pair) if of_rank is not None]
        if not told:
            return
        before, after = (Likeness(*map(mean, zip(*one, strict=True))) for one in zip(*told, strict=True))
        if after.is_worse_than(before):
            warn(
                "the repair made the network less like the dense one: on the first batch the cosine between their "
                f"outputs fell from {before.cosine:.2f} to {after.cosine:.2f}. Few batches, or a weight that acts "
                "outside of its layer, may be the reason: give more data, or try another repair; 'align' fits the "
                "network as a whole, and 'batchnorm' writes no weight"
            )

    def _outputs(self, network: nn.Module, batch: Any) -> list[Tensor]:
        """What a network puts out in eval mode, some rows of each tensor, without padding."""
        with only_training(network, ()):
            found = [values.as_subclass(Tensor) for values in tensors(logits_of(self._forward(network, batch)))]
        rows = [self._valid.rows(values, -1) for values in found if values.is_floating_point() and values.ndim > 1]
        rows = [values.flatten(0, -2) if values.ndim == 3 else values.flatten(1) for values in rows]
        return [values[:: 1 + (len(values) - 1) // _ROWS].clone() for values in rows if values.numel()]


def _is_copy(dense: nn.Module, model: nn.Module) -> bool:
    """Whether a network has the parameters of another, on the same device, as copies of its own."""
    copies, own = dict(dense.named_parameters()), dict(model.named_parameters())
    return copies.keys() == own.keys() and all(
        copies[name].shape == values.shape and copies[name].device == values.device and copies[name] is not values
        for name, values in own.items()
    )
