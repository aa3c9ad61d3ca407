"""The masks of a model that is trained, pruned further, fitted again or replaced. Plain PyTorch."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import nn

from reflow_lightning.pruning import Masks
from reflow_lightning.pruning.keeping import ZeroKeeper
from reflow_lightning.running.processes import together, warn
from reflow_lightning.running.sharding import reshard


class BoundMasks:
    """Masks, the model that they are of, and the keeper of its zeros.

    Attributes:
        masks: The masks, once there are any.
        keeper: Keeps the zeros of the model that they were bound to.

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

    def adopt(self, model: nn.Module) -> bool:
        """Take the masks as those of this model, unless they are of another, and then forget them.

        Returns:
            Whether they may be its masks.
        """
        same = self._model is None or self._model() is model
        if not same:
            self.masks = None
        self._model = weakref.ref(model)
        return same

    def load(self, masks: Masks | None) -> None:
        """Take masks of a checkpoint; whatever model comes next is the one that they are of."""
        self.masks, self._model = masks, None

    def apply(self, models: Iterable[nn.Module]) -> None:
        """Set the zeros in the model and in copies of it."""
        if self.masks is not None:
            with together("applying the masks of the checkpoint"):
                for model in models:
                    self.masks.apply(model)

    def bind(self, model: nn.Module) -> None:
        """Keep the model's zeros from now on, wherever it has been moved."""
        if self.masks is not None:
            self.masks = self.masks.spread_over(model)
            self.keeper.bind(model, self.masks)

    def follow(self, model: nn.Module) -> None:
        """Keep to the masks where a parameter was replaced since, as by a new layer under the old name."""
        if self.masks is not None:
            reshard(model)
            if not self.keeper.is_bound(model, self.masks):
                warn("parameters that Reflow has pruned were replaced: the new ones get the same zeros")
                self.masks.apply(model)
                self.bind(model)

    def __getstate__(self) -> dict[str, Any]:
        """What may be copied or sent to another process: not what is bound to this one."""
        return self.__dict__ | {"_model": None, "keeper": ZeroKeeper()}
