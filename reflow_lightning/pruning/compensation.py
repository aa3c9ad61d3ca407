"""How the weights that stay make up for those that go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from reflow_lightning.pruning.criteria.protocols import Compensating
from reflow_lightning.running.shards import part_of, whole_of


def changes_of(
    criterion: Compensating, here: Mapping[str, Tensor], selected: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """What a criterion adds to the weights that stay, by parameter name, once it is known which ones do.

    Args:
        criterion: The criterion.
        here: The masks, as far as they are held here.
        selected: The weights.

    Raises:
        ValueError: If it gives no changes of the selected weights.
    """
    parts = {name: part_of(name, selected[name]) for name in here}
    masks = {name: whole_of(replace(parts[name], values=mask)) for name, mask in here.items()}
    found = criterion.compensate(masks)
    if not isinstance(found, Mapping):
        raise ValueError(
            f"criterion {criterion}: its compensate gave {type(found).__name__}, but must return changes of weights by "
            "name, an empty dictionary if there are none"
        )
    for name, change in found.items():
        if name not in masks or not isinstance(change, Tensor) or change.shape != masks[name].shape:
            raise ValueError(
                f"criterion {criterion}: its compensate gave {getattr(change, 'shape', type(change).__name__)} for "
                f"'{name}', but must return a tensor of the shape of each weight that was selected"
            )
    return found
