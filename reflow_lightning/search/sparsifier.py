"""One model at one sparsity after the other, each time pruned and repaired from its dense weights."""

from __future__ import annotations

from torch import nn

from reflow_lightning.calibration import Repair, calibrate
from reflow_lightning.calibration.dense import dense_to_compare
from reflow_lightning.calibration.repair import between_prunings, moves_zeros, needs_reference
from reflow_lightning.pruning import Masks, PruneSpec, choose
from reflow_lightning.pruning.choose import Learned, learn
from reflow_lightning.pruning.estimate import Reading
from reflow_lightning.pruning.mask_state import check_agreement
from reflow_lightning.pruning.refilled import masks_after
from reflow_lightning.pruning.stepwise import shared_out, stepwise
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import reshard
from reflow_lightning.running.snapshot import Snapshot
from reflow_lightning.running.world import rank


class Sparsifier:
    """Prunes and repairs a model in place, each time from its dense weights.

    Criterion and allocation read the batches once, for the first sparsity. Where processes run together, call all of
    its methods on all of them.

    Args:
        model: Any module.
        spec: Which weights go.
        steps: So many prunings lead to each sparsity.
        repair: What restores the signal after the last of them.
        reading: What criterion and repair read, each time anew.
        seed: Seed of what criterion and batches draw, the same for each sparsity.

    Attributes:
        dense: The values of the dense model.

    Example:
        >>> import torch
        >>> from reflow_lightning.calibration import Moments
        >>> model = nn.Linear(8, 4)
        >>> reading = Reading(batches=[torch.randn(16, 8)], max_batches=1)
        >>> prune_to = Sparsifier(model, PruneSpec(), 1, Moments(), reading, seed=0)
        >>> prune_to(0.75), prune_to(0.5)
        (Masks(1 tensors, 32 weights, 0.7500 pruned), Masks(1 tensors, 32 weights, 0.5000 pruned))
    """

    def __init__(
        self, model: nn.Module, spec: PruneSpec, steps: int, repair: Repair, reading: Reading, seed: int
    ) -> None:
        self._model, self._spec, self._steps, self._seed = model, spec, steps, seed
        self._last = repair
        self._between = repair if steps == 1 else between_prunings(repair, model)
        self._reading = reading
        self.dense = Snapshot([model])
        repairs = (self._between, self._last)
        compares = any(needs_reference(repair, model) for repair in repairs)
        self._reference = dense_to_compare(model, repairs) if compares else None
        self._learned: Learned | None = None

    def __call__(self, sparsity: float) -> Masks:
        """Prune the dense model to a sparsity and repair it."""
        self.restore()
        if self._learned is None:  # once, as each sparsity is reached from the dense weights
            with together("scoring"), isolated_rng(self._seed):
                self._learned = learn(self._model, sparsity, self._spec, self._reading)
        with together("sharing out the weights"), isolated_rng(self._seed):
            targets = shared_out(self._model, stepwise(self._spec, sparsity, self._steps), self._learned)
        *before, (spec, target) = targets
        masks = None
        for earlier, less in before:
            masks = self._step(earlier, less, masks, self._between)
        return self._step(spec, target, masks, self._last)

    def restore(self) -> None:
        """Put the dense model back."""
        reshard(self._model)
        self.dense.restore()

    def _step(self, spec: PruneSpec, target: float, previous: Masks | None, repair: Repair) -> Masks:
        """One pruning and its repair."""
        masks = self._pruned(spec, target, previous)
        with isolated_rng(self._seed + rank()):  # so that each time it is calibrated on the same batches
            calibrate(self._model, repair=repair, reference=self._reference, **vars(self._reading))
        with together("the repair"):
            return masks_after(self._model, masks, repair, moves_zeros(repair))

    def _pruned(self, spec: PruneSpec, target: float, previous: Masks | None) -> Masks:
        learned = self._learned if previous is None else None
        with together("pruning"), isolated_rng(self._seed):  # the same on all processes, for a criterion that draws
            choice = choose(self._model, target, spec, previous=previous, learned=learned, **vars(self._reading))
            choice.apply(self._model)
        check_agreement(choice.masks)
        return choice.masks
