"""How the weights that stay make up for those that go."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reflow_lightning.pruning.criteria.protocols import Compensating
from reflow_lightning.running.shards import part_of, whole_of


def changes_of(criterion: Compensating, masks: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What a criterion adds to the weights that stay, by parameter name, once it is known which ones do.

    Args:
        criterion: The criterion.
        masks: The masks, which may be spread over processes. The criterion gets them whole.

    Raises:
        ValueError: If it gives no changes of the selected weights.
    """
    whole = {name: whole_of(part_of(name, mask)) for name, mask in masks.items()}
    found = criterion.compensate(whole)
    if not isinstance(found, Mapping):
        raise ValueError(
            f"criterion {criterion}: its compensate gave {type(found).__name__}, but must return changes of weights by "
            "name, an empty dictionary if there are none"
        )
    for name, change in found.items():
        if name not in whole or not isinstance(change, Tensor) or change.shape != whole[name].shape:
            raise ValueError(
                f"criterion {criterion}: its compensate gave {getattr(change, 'shape', type(change).__name__)} for "
                f"'{name}', but must return a tensor of the shape of each weight that was selected"
            )
    return found
