"""The loss whose gradients tell how much a weight matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from reflow_lightning.running.labels import batch_targets
from reflow_lightning.running.outputs import logits_of, loss_of

Loss = Callable[[Any, Any], Any]
"""``(output, batch) -> scalar``: what the model gave for a batch, and the batch; a mean over its samples."""


def label_loss(output: Any, batch: Any) -> Tensor:
    """The loss of a batch with labels: the model's own, if it puts one out, else a mean cross entropy of its logits.

    A model of transformers puts out its own loss for a batch with ``"labels"``; a causal language model's is the cross
    entropy of the *next* tokens. The labels are `reflow_lightning.running.labels.batch_targets`; labels of -100 do not
    count.

    Args:
        output: Logits of shape (N, classes, ...), or (N, positions, classes) with labels of shape (N, positions); or an
            output that names its ``loss`` or its ``logits``.
        batch: The batch that they were computed for.

    Raises:
        ValueError: If the batch has no labels, the output is no tensor, or they are not logits and labels of classes.

    Example:
        >>> import torch
        >>> round(label_loss(torch.zeros(4, 2), ("images", torch.tensor([0, 1, 1, 0]))).item(), 4)
        0.6931
        >>> label_loss({"loss": torch.tensor(0.5)}, {"input_ids": "ids"})
        tensor(0.5000)
    """
    if (own := loss_of(output)) is not None:
        return own
    output, labels = logits_of(output), batch_targets(batch)
    if not isinstance(labels, Tensor) or not isinstance(output, Tensor):
        keys = f" with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise ValueError(
            f"the default loss needs logits and labels, but got a {type(output).__name__} and a batch of type "
            f"{type(batch).__name__}{keys}: give the batch labels, called 'labels' for a model of transformers "
            "that computes its loss itself, or the criterion a loss, as in Fisher(loss=lambda output, batch: ...)"
        )
    classes_first = output.shape[:1] + output.shape[2:]
    if output.ndim > 2 and labels.shape == output.shape[:-1] != classes_first:
        output = output.movedim(-1, 1)
    several = output.ndim > 1 and output.shape[1] > 1
    if not several or (labels.is_floating_point() and not _are_shares(labels, output)):
        raise ValueError(
            f"the default loss is a cross entropy of several classes, but got an output of shape {tuple(output.shape)} "
            f"and targets of {labels.dtype} and shape {tuple(labels.shape)}: give the criterion the loss of your "
            "training, as in Fisher(loss=lambda output, batch: ...), or have the forward pass return it"
        )
    return functional.cross_entropy(output, labels)


def _are_shares(labels: Tensor, output: Tensor) -> bool:
    """Whether the targets are shares of classes that sum to one, unlike several labels a sample, or values."""
    if labels.shape != output.shape:
        return False
    return bool((labels >= 0).all()) and bool(((labels.sum(1) - 1).abs() < 1e-2).all())
