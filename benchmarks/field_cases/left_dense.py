"""What of a module is not trained, and named for it: only where it has a weight that could be pruned."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import torchmetrics
from torch import Tensor, nn

from field_cases.trial import Kind
from field_cases.zeros import data
from reflow_lightning import Reflow


class Holds(pl.LightningModule):
    """Holds something beside the network that it trains."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.net, self.other = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 10)), other

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), 0.1)


class Distance(torchmetrics.SumMetric):
    """A metric with a network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)


SILENT: dict[str, Callable[[], nn.Module]] = {
    "a metric": torchmetrics.MeanMetric,
    "a collection of metrics": lambda: torchmetrics.MetricCollection([torchmetrics.MeanMetric()]),
    "a list of metrics": lambda: nn.ModuleList([torchmetrics.MeanMetric(), torchmetrics.MaxMetric()]),
    "a frozen embedding": lambda: nn.Embedding(4, 4).requires_grad_(False),
    "a frozen norm over matrices": lambda: nn.LayerNorm((4, 4)).requires_grad_(False),
}
TOLD: dict[str, Callable[[], nn.Module]] = {
    "a frozen network": lambda: nn.Sequential(nn.Linear(4, 4), nn.Embedding(4, 4)).requires_grad_(False),
    "a metric with a network": Distance,
}


def told_of(make: Callable[[], nn.Module], expected: int, **arguments: Any) -> str:
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = pl.Trainer(
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            callbacks=[Reflow(0.5, repair="none", monitor=False, **arguments)],
            **quiet,
        )
        trainer.fit(copy.deepcopy(Holds(make())), data())
    texts = [str(w.message) for w in told if "not trained" in str(w.message) or "exclude pattern" in str(w.message)]
    return "" if len(texts) == expected else f"{len(texts)} warnings: {texts[:1]}"


KINDS = [
    Kind(
        "left_dense",
        "Warns of parts that have no weight to prune, and of patterns that nobody gave",
        "metrics, collections and lists of them, a frozen embedding, a frozen norm; a frozen network and a metric with "
        "one are named, once, and not if they are excluded",
        {name: partial(told_of, make, 0) for name, make in SILENT.items()}
        | {name: partial(told_of, make, 1) for name, make in TOLD.items()}
        | {f"{name}, excluded": partial(told_of, make, 0, exclude="other.*") for name, make in TOLD.items()},
    )
]
