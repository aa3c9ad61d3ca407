"""Least squares that also choose which weights of each layer stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from reflow_lightning.calibration.least_squares import Sums
from reflow_lightning.calibration.reconstruct import Reconstruct, fit
from reflow_lightning.calibration.repair import Calibration, Repair
from reflow_lightning.calibration.reselecting import MOST_INPUTS, reselected
from reflow_lightning.calibration.solving import Chooser
from reflow_lightning.layers.affine import AffineMap
from reflow_lightning.layers.find import find_layers
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.units import held
from reflow_lightning.running.world import rank

DONE = "least squares over other zeros"


@dataclass(frozen=True)
class Reselect(Reconstruct):
    """Fit the weights of each layer as `Reconstruct` does, and choose anew which of them stay.

    Every tensor keeps as many weights as it had, but others: those with which the layer's output comes closest to the
    dense network's, found by ADMM from the same sums (see `reselected`). A choice that fits worse than the old zeros is
    not taken. Weights that are zero in the dense network stay zero. A layer with more than 8,192 inputs keeps its
    zeros. It takes little longer than least squares, and brings back far more (``docs/strongest.md``).

    The old masks no longer describe the network until ``undo()``. `Pruner`, `Reflow` and `find_sparsity` take the new
    ones; after `calibrate` take ``masks.moved(model)``. Where an N:M pattern or ``tied`` says more of the
    zeros, they stay as they are.

    Args:
        ridge: See `Reconstruct`.
        held_bytes: See `Reconstruct`.

    Example:
        The second input is small, so its weight counts less, though it is the largest.

        >>> import copy, torch
        >>> model = nn.Linear(3, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 1.1, 0.9]]))
        >>> dense, x = copy.deepcopy(model), torch.randn(64, 3) * torch.tensor([1.0, 0.1, 1.0])
        >>> _ = model.weight.data[0, 2].zero_()
        >>> _ = Reselect()(model, [x], lambda network, x: network(x), dense)
        >>> (model.weight != 0).tolist()
        [[True, False, True]]
    """

    leaves_undo_to_caller: ClassVar[bool] = True
    unit_by_unit: ClassVar[bool] = True

    def keeping_zeros(self) -> Repair:
        """What stands for it where zeros stay as they are."""
        return Reconstruct(self.ridge, self.held_bytes)

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        return fit(model, batches, forward, reference, self, DONE, _chooser)


def _chooser(dense: nn.Module) -> Chooser:
    layers = {affine.name: layer for layer in find_layers(dense).known.values() for affine in layer.maps}

    def choose(affine: AffineMap, sums: Sums, old: Tensor, strength: float) -> list[Tensor]:
        with held(layers[affine.name].module):
            [in_dense] = (one for one in layers[affine.name].maps if one.name == affine.name)
            kept, free = old != 0, (in_dense.matrix() != 0).view_as(old)
        if bool((free <= kept).all()) or old.shape[2] > MOST_INPUTS:
            return [kept]
        if rank():  # the choice of the first process counts
            return [kept, kept]
        return [reselected(sums.gram, sums.products, old, kept, free, affine.columns, strength), kept]

    return choose
