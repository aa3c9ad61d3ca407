"""A network as it was, to be returned to after further training. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.pruning import Masks
from reflow_lightning.running.inference import outside_inference, writing
from reflow_lightning.running.sharding import reshard
from reflow_lightning.running.shards import Part, local, part_of, whole_like, whole_of
from reflow_lightning.running.snapshot import named_tensors


@dataclass(frozen=True)
class Kept:
    """Parameters and buffers of a network, and its masks.

    Attributes:
        state: Their values, by name, on the CPU; of what is spread over processes the part held here.
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

    state: Mapping[str, Part]
    masks: Masks | None

    @classmethod
    @outside_inference()
    def of(cls, module: nn.Module, masks: Masks | None) -> Kept:
        """Copy a network as it is now; the masks need no copy, since masks are never changed."""
        reshard(module)
        parts = {name: part_of(name, value) for name, value in named_tensors(module)}
        return cls({n: replace(part, values=part.values.to("cpu", copy=True)) for n, part in parts.items()}, masks)

    def put_back(self, module: nn.Module) -> None:
        """Give a network these values.

        Raises:
            ValueError: If it has others by now, before anything is changed.
        """
        reshard(module)
        now = dict(named_tensors(module))
        odd = [name for name, value in self.state.items() if name not in now or now[name].shape != value.shape]
        if odd:
            raise ValueError(
                f"the network of an earlier round can't be put back: '{odd[0]}' is missing now, or has another shape; "
                "leave the layers as they are, or use stop_on_drop=None"
            )
        with torch.no_grad(), writing(module):
            for name, kept in self.state.items():
                here = now[name].detach()
                local(here).copy_(kept.values if kept.group is not None else local(whole_like(here, kept.values)))

    def state_dict(self) -> dict[str, Any]:
        """Plain types only; whole tensors, so that processes call it together and any number of them may load it."""
        return {
            "state": {name: _whole(part) for name, part in self.state.items()},
            "masks": None if self.masks is None else self.masks.state_dict(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Kept:
        """Make it from what `state_dict` gave."""
        parts = {name: Part(values, values.shape) for name, values in state["state"].items()}
        return cls(parts, None if state["masks"] is None else Masks.from_state_dict(state["masks"]))


def _whole(part: Part) -> Tensor:
    return part.values if part.group is None else whole_of(part).cpu()
