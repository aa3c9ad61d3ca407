"""Train and test any image or signal classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from reflow_lightning.experiments.spreading import spread


class Classifier(pl.LightningModule):
    """Cross-entropy on ``(inputs, class indices)`` batches; logs ``{train,val,test}/loss`` and ``{val,test}/accuracy``.

    Args:
        net: Maps inputs to logits (N, classes).
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
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def configure_model(self) -> None:
        """Spread the network over the devices, if the strategy says so (`ModelParallelStrategy`)."""
        if self.device_mesh is not None:
            spread(self.net, self.device_mesh["data_parallel"])

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to logits (N, classes)."""
        logits: Tensor = self.net(inputs)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        inputs, classes = _labelled(batch)
        loss = functional.cross_entropy(self(inputs), classes, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        self._evaluate(batch, "test", self.test_accuracy)

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str, accuracy: MulticlassAccuracy) -> None:
        inputs, classes = _labelled(batch)
        logits = self(inputs)
        accuracy.update(logits, classes)
        self.log(f"{split}/loss", functional.cross_entropy(logits, classes), batch_size=len(classes), sync_dist=True)
        self.log(f"{split}/accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(classes))

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        optimizer = self.optimizer(self.parameters())
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])


def _labelled(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        found = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(
            f"a batch is a {found}, and must be (inputs, class indices): give data with labels, or a module that knows "
            "these batches (module=own)"
        )
    inputs, classes = batch
    return inputs, classes
