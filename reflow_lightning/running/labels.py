"""Where a batch says what its samples are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reflow_lightning.running.hooks import plain

_KEYS = ("y", "label", "labels", "target", "targets")


def batch_targets(batch: Any) -> Any:
    """What stands where labels are expected; it need not be a tensor.

    The second element of a tuple or list, ``batch["y" | "label" | "labels" | "target" | "targets"]`` of a dict, else
    ``None``.

    Example:
        >>> batch_targets(("images", "masks")), batch_targets({"image": "images"})
        ('masks', None)
    """
    if isinstance(batch, (tuple, list)):
        return batch[1] if len(batch) > 1 else None
    if isinstance(batch, Mapping):
        return next((batch[key] for key in _KEYS if key in batch), None)
    return None


def batch_labels(batch: Any) -> Tensor | None:
    """One class a sample, if the batch tells.

    `batch_targets`, if they are a tensor of whole numbers of shape (N,) or (N, 1).

    Returns:
        Classes of shape (N,).

    Example:
        >>> import torch
        >>> batch_labels(("images", torch.tensor([[4], [1]]))), batch_labels(("images", torch.tensor([0.5, 0.1])))
        (tensor([4, 1]), None)
    """
    found = batch_targets(batch)
    if not isinstance(found, Tensor) or found.is_floating_point() or found.is_complex():
        return None
    found = plain(found)
    labels = found.squeeze(1) if found.ndim == 2 and found.shape[1] == 1 else found
    return labels.long() if labels.ndim == 1 else None
