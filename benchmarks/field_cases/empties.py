"""Layers of which a pruning leaves next to nothing, without a word, or with a remedy that is none."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from field_cases.trial import Kind, named
from reflow_lightning import Gradual, Reflow, prune
from reflow_lightning.pruning import make_masks


def messages(act: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act()
    return [text for warning in found if "leaves" in (text := str(warning.message)) and "hardly any" in text]


def perceptron(scale: float) -> nn.Sequential:
    """The layers of the most used Lightning template; the first has the smallest weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    nn.init.normal_(model[0].weight, std=scale)
    return model


def named_with_a_remedy(make: Callable[[], nn.Module], sparsity: float, layer: str) -> str:
    model = make()
    texts = messages(lambda: make_masks(model, sparsity))
    if len(texts) != 1 or layer not in texts[0]:
        return f"said {texts or 'nothing'}"
    floor, left = re.findall(r"min_kept=([\d.]+) would leave (\d+)", texts[0])[0]
    masks = prune(model, sparsity, min_kept=float(floor))
    kept = int(masks[layer].sum())
    exact = round(sparsity * sum(mask.numel() for mask in masks.values()))
    pruned = sum(int((~mask).sum()) for mask in masks.values())
    return "" if (kept, pruned) == (int(left), exact) else f"{kept} weights of {left} that were told"


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 64, 1))
    nn.init.normal_(model[2].weight, std=0.02)
    return model


def recurrent() -> nn.Module:
    torch.manual_seed(0)
    model = nn.GRU(64, 64)
    nn.init.normal_(model.weight_hh_l0, std=0.02)
    return model


def no_alarm(make: Callable[[], nn.Module], sparsity: float, **how: Any) -> str:
    return "; ".join(messages(lambda: make_masks(make(), sparsity, **how)))


def even() -> nn.Module:
    """All weights of one size, as in a network that is trained well."""
    torch.manual_seed(0)
    model = perceptron(1.0)
    for layer in model[::2]:
        nn.init.normal_(layer.weight)
    return model


class Task(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return mse_loss(self.net(batch[0]), batch[0][:, :10])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-4)


def once_in_a_gradual_training() -> str:
    reflow = Reflow(0.98, schedule=Gradual(every_n_steps=2), repair="none", monitor=False)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, callbacks=[reflow], enable_checkpointing=False, **quiet)
    texts = messages(lambda: trainer.fit(Task(), DataLoader(TensorDataset(torch.randn(64, 784)), 8)))
    count = sum("net.0.weight" in text for text in texts)
    return "" if count == 1 else f"the first layer was named {count} times"


def lenient_sparsities() -> str:
    return "; ".join(no_alarm(even, sparsity) for sparsity in (0.5, 0.8, 0.9, 0.95) if no_alarm(even, sparsity))


def allocations() -> str:
    found = (no_alarm(lambda: perceptron(1e-3), 0.9, allocation=name) for name in ("lamp", "erk", "uniform"))
    return "; ".join(filter(None, found))


TRIALS = {
    "nothing left": functools.partial(named_with_a_remedy, lambda: perceptron(1e-4), 0.9, "0.weight"),
    "a few left": functools.partial(named_with_a_remedy, lambda: perceptron(0.013), 0.9, "0.weight"),
    "a convolution": functools.partial(named_with_a_remedy, convolutional, 0.9, "2.weight"),
    "a recurrent matrix": functools.partial(named_with_a_remedy, recurrent, 0.9, "weight_hh_l0"),
    **named(once_in_a_gradual_training, lenient_sparsities, allocations),
}
KINDS = [
    Kind(
        "empties",
        "a layer is left with next to nothing, and no word of it",
        ", ".join(TRIALS).replace("_", " "),
        TRIALS,
    )
]
