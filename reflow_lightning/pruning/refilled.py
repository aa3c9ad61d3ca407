"""What a repair has put where weights were pruned: it is taken back, or the masks follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reflow_lightning.pruning.belonging import held_here
from reflow_lightning.pruning.mask_state import are_alike
from reflow_lightning.pruning.masks import Masks
from reflow_lightning.running.names import few
from reflow_lightning.running.processes import gather, summed, warn
from reflow_lightning.running.shards import local, part_like, part_of


def masks_after(model: nn.Module, masks: Masks, repair: object, moves: bool) -> Masks:
    """The masks after a repair: moved with the zeros if it moves them; else as they are, with the zeros set again.

    Args:
        model: The repaired model.
        masks: What was pruned.
        repair: For the message.
        moves: Whether the repair exchanges zeros for others.

    Raises:
        ValueError: If it left others on other processes.

    Example:
        >>> layer, masks = nn.Linear(2, 1), Masks({"weight": torch.tensor([[True, False]])})
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 1.0]]))
        >>> masks_after(layer, masks, "reselect", moves=True)["weight"].tolist()
        [[False, True]]
    """
    if not moves:
        zero_again(model, masks, repair)
        return masks
    filled = [
        name for name, parameter in zip(masks, masks.parameters(model), strict=True) if _fills(parameter, masks[name])
    ]
    zero_again(model, Masks({name: masks[name] for name in filled}), repair)  # such as a bias that was pruned by name
    after = masks.moved(model)
    if not are_alike(after):
        raise ValueError(f"repair {repair} chose other weights on other processes: let it decide by the same numbers")
    return after


def _fills(parameter: Tensor, mask: Tensor) -> bool:
    """Whether more is left than the mask keeps."""
    here = part_of("parameter", parameter)
    left, most = (int(summed(marks.count_nonzero(), here.group)) for marks in (here.values != 0, part_like(here, mask)))
    return left > most


@torch.no_grad()
def zero_again(model: nn.Module, masks: Masks, repair: object) -> None:
    """Set pruned weights to zero that a repair has filled, and warn of it, since it counted on them.

    Where processes run together, all must call it.

    Args:
        model: The repaired model.
        masks: What was pruned.
        repair: For the message.

    Example:
        >>> layer, masks = nn.Linear(2, 1), Masks({"weight": torch.tensor([[True, False]])})
        >>> masks.apply(layer)
        >>> zero_again(layer, masks, "none")
    """
    found = zip(masks, held_here(model, masks), strict=True)
    filled = gather({name for name, (values, mask) in found if bool(((values != 0) & ~mask).any())})
    names = [name for name in masks if any(name in here for here in filled)]
    if names:
        masks.apply(model)
        warn(
            f"repair {repair} filled weights that are pruned, in {few(map(repr, names))}: they were set to zero again, "
            "so that the network is not as the repair left it; have the repair write to the other weights alone"
        )


@torch.no_grad()
def bring_back(model: nn.Module, dense: nn.Module, masks: Masks) -> None:
    """Give weights that an earlier pruning took, and these masks keep, the values of the dense network again.

    Example:
        >>> model, dense = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> _ = model.weight.data.zero_()
        >>> bring_back(model, dense, Masks({"weight": torch.tensor([[True, False]])}))
        >>> bool(model.weight[0, 0] == dense.weight[0, 0]), float(model.weight[0, 1])
        (True, 0.0)
    """
    of_dense = [local(parameter.detach()) for parameter in masks.parameters(dense)]
    for (now, mask), before in zip(held_here(model, masks), of_dense, strict=True):
        now.copy_(torch.where((now == 0) & mask, before, now))
