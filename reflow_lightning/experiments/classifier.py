"""Train and test any classifier of images, signals or sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from reflow_lightning.experiments.token_format import check_format, check_tokens
from reflow_lightning.running.forward import batch_arguments
from reflow_lightning.running.labels import batch_labels
from reflow_lightning.running.spreading import spread

Inputs = Tensor | Mapping[str, Tensor]
"""A tensor, or what a language model is called with, by keyword."""


class Classifier(pl.LightningModule):
    """Cross-entropy on ``(inputs, class indices)`` batches; logs ``{train,val,test}/loss`` and ``{val,test}/accuracy``.

    Inputs are a tensor, or a mapping that holds what the network is called with by keyword.

    Args:
        net: Maps inputs to logits (N, classes). If it has ``tokens``, a `TokenFormat`, the data are compared with it.
        num_classes: Number of classes.
        optimizer: Makes the optimizer of the parameters.
        scheduler: Makes the learning-rate schedule of the optimizer, which is stepped once an epoch.
        label_smoothing: Share of the target that is spread over all classes, in training.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def configure_model(self) -> None:
        """Spread the network over the devices, if the strategy says so (`ModelParallelStrategy`)."""
        if self.device_mesh is not None:
            spread(self.net, self.device_mesh["data_parallel"])

    def setup(self, stage: str) -> None:
        """Check that the network is fit for the tokens of the data.

        Raises:
            ValueError: If it is not.
        """
        data = getattr(self.trainer, "datamodule", None)
        given, taken = getattr(data, "tokens", None), getattr(self.net, "tokens", None)
        if given is not None and taken is not None:
            check_format(given, taken)

    def forward(self, inputs: Inputs) -> Tensor:
        """Map inputs to logits (N, classes)."""
        arguments = batch_arguments(self.net, inputs)
        logits: Tensor = self.net(**arguments) if arguments else self.net(inputs)
        return logits

    def training_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        inputs, classes = self._labelled(batch)
        loss = functional.cross_entropy(self(inputs), classes, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, batch_size=len(classes))
        return loss

    def validation_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        self._evaluate(batch, "test", self.test_accuracy)

    def _evaluate(self, batch: tuple[Inputs, Tensor], split: str, accuracy: MulticlassAccuracy) -> None:
        inputs, classes = self._labelled(batch)
        check_classes(batch_labels(batch), self.num_classes)
        logits = self(inputs)
        accuracy.update(logits, classes)
        self.log(f"{split}/loss", functional.cross_entropy(logits, classes), batch_size=len(classes), sync_dist=True)
        self.log(f"{split}/accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(classes))

    def _labelled(self, batch: Any) -> tuple[Inputs, Tensor]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            found = (
                f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
            )
            raise ValueError(
                f"a batch is a {found}, and must be (inputs, class indices): give data with labels, or a module that "
                "knows these batches (module=own)"
            )
        inputs, classes = batch
        check_tokens(inputs, getattr(self.net, "tokens", None))
        return inputs, classes

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        optimizer = self.optimizer(self.parameters())
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])


_IGNORED = -100
"""What torch's cross-entropy leaves out."""


def check_classes(classes: Tensor | None, num_classes: int) -> None:
    """Check that all classes are known.

    Args:
        classes: Class indices; ``None`` for targets of another kind, which are not checked.
        num_classes: The number of classes.

    Raises:
        ValueError: If one is not.

    Example:
        >>> import torch
        >>> check_classes(torch.tensor([0, 2]), 2)
        Traceback (most recent call last):
        ValueError: there is a label 2, but num_classes=2 has 0 to 1: give num_classes=3, or correct the labels
    """
    if classes is None:
        return
    unknown = classes[((classes < 0) & (classes != _IGNORED)) | (classes >= num_classes)]
    if len(unknown):
        label = int(unknown[0])
        remedy = f"give num_classes={label + 1}, or correct the labels" if label >= 0 else "correct the labels"
        raise ValueError(
            f"there is a label {label}, but num_classes={num_classes} has 0 to {num_classes - 1}: {remedy}"
        )
