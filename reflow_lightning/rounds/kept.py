"""A network as it was, to be returned to after further training. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reflow_lightning.pruning import Masks
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.snapshot import named_tensors, write


@dataclass(frozen=True)
class Kept:
    """Parameters and buffers of a network, and its masks.

    Attributes:
        state: Their values, by name, on the CPU.
        masks: Which weights were pruned, if any were.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> import torch
        >>> kept, before = Kept.of(layer, None), layer.weight.detach().clone()
        >>> _ = nn.init.zeros_(layer.weight)
        >>> kept.put_back(layer)
        >>> torch.equal(layer.weight, before)
        True
    """

    state: Mapping[str, Tensor]
    masks: Masks | None

    @classmethod
    @outside_inference()
    def of(cls, module: nn.Module, masks: Masks | None) -> Kept:
        """Copy a network as it is now; the masks need no copy, since masks are never changed."""
        return cls({name: value.detach().to("cpu", copy=True) for name, value in named_tensors(module)}, masks)

    def put_back(self, module: nn.Module) -> None:
        """Give a network these values.

        Raises:
            ValueError: If it has others by now, before anything is changed.
        """
        now = dict(named_tensors(module))
        odd = [name for name, value in self.state.items() if name not in now or now[name].shape != value.shape]
        if odd:
            raise ValueError(
                f"the network of an earlier round can't be put back: '{odd[0]}' is missing now, or has another shape; "
                "leave the layers as they are, or use stop_on_drop=None"
            )
        write(module, self.state)

    def state_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {"state": dict(self.state), "masks": None if self.masks is None else self.masks.state_dict()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Kept:
        """Make it from what `state_dict` gave."""
        return cls(state["state"], None if state["masks"] is None else Masks.from_state_dict(state["masks"]))
