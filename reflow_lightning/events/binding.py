"""The masks of a model that is trained, pruned further, fitted again or replaced. Plain PyTorch."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import nn, optim
from torch.utils.hooks import RemovableHandle

from reflow_lightning.pruning import Masks
from reflow_lightning.pruning.keeping import ZeroKeeper
from reflow_lightning.running.hooks import before_saving
from reflow_lightning.running.processes import together, warn
from reflow_lightning.running.sharding import reshard


class BoundMasks:
    """Masks, the model that they are of, and the keeper of its zeros.

    Attributes:
        masks: The masks, once there are any.
        keeper: Keeps the zeros of the model that is trained.

    Example:
        >>> import torch
        >>> bound, model = BoundMasks(), nn.Linear(2, 1)
        >>> bound.masks = Masks({"weight": torch.tensor([[True, False]])})
        >>> bound.adopt(model), bound.adopt(nn.Linear(2, 1)), bound.masks
        (True, False, None)
    """

    def __init__(self) -> None:
        self.masks: Masks | None = None
        self.keeper = ZeroKeeper()
        self._model: weakref.ref[nn.Module] | None = None
        self._saving: RemovableHandle | None = None
        self._is_from_elsewhere = False

    def may_be_of(self, model: nn.Module) -> bool:
        """Whether the masks may belong to this model: they belong to no other."""
        if self._model is not None:
            return self._model() is model
        return not self._is_from_elsewhere or self._is_pruned(model)

    def adopt(self, model: nn.Module) -> bool:
        """Take the masks to belong to this model, unless they belong to another, and then forget them.

        Returns:
            Whether they may be its masks.
        """
        same = self.may_be_of(model)
        if not same:
            self.masks = None
        self._model, self._is_from_elsewhere = weakref.ref(model), False
        return same

    def load(self, masks: Masks | None) -> None:
        """Take masks of a checkpoint; they belong to the next model that comes."""
        self.masks, self._model, self._is_from_elsewhere = masks, None, False

    def bring(self, masks: Masks | None) -> None:
        """Take masks of another process. The next model is theirs if its weights are zero where they prune."""
        self.masks, self._model, self._is_from_elsewhere = masks, None, True

    def _is_pruned(self, model: nn.Module) -> bool:
        """Whether a model has the zeros of the masks."""
        try:
            held = [] if self.masks is None else self.masks.local(model)
        except ValueError:
            return False
        return not any(bool(values[~mask].any()) for values, mask in held)

    def apply(self, models: Iterable[nn.Module]) -> None:
        """Set the zeros in the model and in copies of it."""
        if self.masks is not None:
            with together("applying the masks of the checkpoint"):
                for model in models:
                    self.masks.apply(model)

    # -- the zeros of a training

    def bind(self, model: nn.Module) -> None:
        """Keep the model's zeros from now on, wherever it has been moved."""
        if self.masks is not None:
            self.masks = self.masks.spread_over(model)
            self.keeper.bind(model, self.masks)

    def prepare(self, model: nn.Module, masks: Masks, optimizers: Iterable[optim.Optimizer]) -> None:
        """Keep the zeros of new masks, and have the optimizers forget what moved the weights that they prune."""
        self.keeper.bind(model, masks)
        for optimizer in optimizers:
            self.keeper.forget_moments(optimizer)

    def follow(self, model: nn.Module) -> None:
        """Keep to the masks where a parameter was replaced since, as by a new layer under the old name."""
        if self.masks is not None and self.keeper.is_holding:
            reshard(model)
            if not self.keeper.is_bound(model, self.masks):
                warn("parameters that Reflow has pruned were replaced: the new ones get the same zeros")
                self.masks.apply(model)
                self.bind(model)

    def watch(self, model: nn.Module) -> None:
        """Set the zeros again after every step of any optimizer, and before each ``state_dict()`` of the model."""
        self._stop_watching()
        self._saving = before_saving(model, self._before_saving)
        self.keeper.watch()

    def release(self) -> None:
        """Let go of the optimizers and of the model's parameters."""
        self._stop_watching()
        self.keeper.forget_let_moments()
        self.keeper.release()

    def _before_saving(self) -> None:
        model = self._model() if self._model is not None else None
        if model is not None and self.masks is not None and self.keeper.is_bound(model, self.masks):
            self.keeper.set_zeros()

    def _stop_watching(self) -> None:
        if self._saving is not None:
            self._saving.remove()
            self._saving = None

    def __getstate__(self) -> dict[str, Any]:
        """What may be copied or sent to another process: not what is bound to this one."""
        return self.__dict__ | {"_model": None, "_saving": None}
