"""The loss whose gradients tell how much a weight matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from reflow_lightning.running.labels import batch_targets

Loss = Callable[[Any, Any], Any]
"""``(output, batch) -> scalar``: what the model gave for a batch, and the batch; a mean over its samples."""


def label_cross_entropy(output: Any, batch: Any) -> Tensor:
    """Mean cross entropy of logits with the labels of a batch.

    The labels are `reflow_lightning.running.labels.batch_targets`.

    Args:
        output: Logits of shape (N, classes, ...).
        batch: The batch that they were computed for.

    Raises:
        ValueError: If the batch has no labels, or the output is no tensor.

    Example:
        >>> import torch
        >>> round(label_cross_entropy(torch.zeros(4, 2), ("images", torch.tensor([0, 1, 1, 0]))).item(), 4)
        0.6931
    """
    labels = batch_targets(batch)
    if not isinstance(labels, Tensor) or not isinstance(output, Tensor):
        keys = f" with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise ValueError(
            f"the default loss needs logits and labels, but got a {type(output).__name__} and a batch of type "
            f"{type(batch).__name__}{keys}: give the criterion a loss=lambda output, batch: ..., as in Fisher(loss=...)"
        )
    if labels.is_floating_point() and not (labels.ndim == output.ndim and bool((labels >= 0).all())):
        raise ValueError(
            f"the default loss is a cross entropy with class labels, but got targets of {labels.dtype} and shape "
            f"{tuple(labels.shape)}: give the criterion a loss, as in Fisher(loss=lambda output, batch: ...)"
        )
    return functional.cross_entropy(output, labels)
