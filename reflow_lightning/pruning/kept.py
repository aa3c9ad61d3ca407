"""The handle of `Masks.keep`: zeros stay zero in any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import nn, optim
from torch.utils.hooks import RemovableHandle

from reflow_lightning.pruning.belonging import tensors_of
from reflow_lightning.pruning.bit_mask import BitMasks
from reflow_lightning.pruning.keeping import ZeroKeeper
from reflow_lightning.running.compat.hooks import after_steps


class KeptZeros:
    """Pruned weights of a model that are set back to zero after every step of some optimizers, until `remove`.

    It keeps zeros by the parameters' names: where a parameter was replaced since, or moved to another device, the next
    step finds the new one. The model is held until `remove`, as the optimizers hold its weights anyway.

    Args:
        model: The model.
        masks: The masks.
        optimizers: What trains it.

    Raises:
        TypeError: If one is no model, or no optimizer.
        ValueError: If there is no optimizer, or one trains no pruned weight, or the masks do not fit the model. Nothing
            is changed then.
    """

    def __init__(self, model: nn.Module, masks: BitMasks, optimizers: Sequence[optim.Optimizer]) -> None:
        _check(model, masks, optimizers)
        self._model: nn.Module | None = model
        self._masks = masks
        self._keeper = ZeroKeeper()
        self._keeper.bind(model, masks)
        self._handles: list[RemovableHandle] = []
        for place, optimizer in enumerate(optimizers):
            try:
                self._handles.append(after_steps(optimizer, self._after_step))
            except AttributeError as error:  # a wrapper that never called Optimizer.__init__
                self.remove()
                raise TypeError(
                    f"optimizers[{place}], a {type(optimizer).__name__}, runs no hooks after its steps: pass the "
                    "optimizer that it wraps"
                ) from error
        self._keeper.set_zeros()
        for optimizer in optimizers:
            self._keeper.forget_moments(optimizer)

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero, so that a norm by which they are clipped is of the rest."""
        self._follow()
        self._keeper.mask_gradients()

    def remove(self) -> None:
        """Let the weights go: from now on they change as others do. What another `Masks.keep` prunes stays zero."""
        while self._handles:
            self._handles.pop().remove()
        self._keeper.release()
        self._model = None

    def __repr__(self) -> str:
        return f"KeptZeros({len(self._masks)} tensors, {len(self._handles)} optimizers)"

    def __enter__(self) -> KeptZeros:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def _follow(self) -> None:
        if self._model is None or self._keeper.is_bound(self._model, self._masks):
            return
        try:
            self._keeper.bind(self._model, self._masks)
        except ValueError as error:
            raise ValueError(f"{error}; end the keeping, by remove() of its handle, before you rebuild it") from error

    def _after_step(self, *_: Any) -> None:
        self._follow()
        self._keeper.set_zeros()


def _check(model: nn.Module, masks: BitMasks, optimizers: Sequence[optim.Optimizer]) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: call masks.keep(model, *optimizers)")
    if not optimizers:
        raise ValueError("no optimizer was given: call masks.keep(model, optimizer) with the one that trains it")
    pruned = set(map(id, tensors_of(model, masks.shapes)))
    for place, optimizer in enumerate(optimizers):
        kind = type(optimizer).__name__
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(f"optimizers[{place}] is a {kind}: pass each torch.optim.Optimizer by itself")
        if not any(id(parameter) in pruned for group in optimizer.param_groups for parameter in group["params"]):
            raise ValueError(
                f"optimizers[{place}], a {kind}, trains none of the {len(pruned)} pruned parameters of "
                f"{type(model).__name__}: make it from this model's parameters, or leave it out"
            )
