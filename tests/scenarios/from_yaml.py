"""What a user's module may hold that is named in YAML: functions and objects without annotations, and with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from helpers import loader
from torch import Tensor, nn

from reflow_lightning.calibration import Calibration
from reflow_lightning.pruning import Criterion, Magnitude
from reflow_lightning.pruning.criteria.gradient_criterion import GradientCriterion
from reflow_lightning.running.forward import Forward
from reflow_lightning.schedules import Length, Progress


class Data(pl.LightningDataModule):
    def __init__(self, n: int = 32) -> None:
        super().__init__()
        self.n = n

    def train_dataloader(self):
        return loader(self.n)


@dataclass
class Batches:
    n: int = 1

    def __call__(self):
        return [torch.randn(8, 1, 6, 6)] * self.n


def batches():
    return Batches()()


def forward(model, batch):
    return model(batch[0])


def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])


def criterion(name, weight):
    return weight.abs()


def repair(model, batches, forward, reference):
    return Calibration((), {}, 0, 0.0)


@dataclass(frozen=True)
class Called:
    """Stands for a criterion, an allocation or a repair: all that is asked of it is that it can be called."""

    share: float = 1.0

    def __call__(self, *arguments):
        raise NotImplementedError


@dataclass(frozen=True)
class OnData:
    """A criterion that reads data, annotated as `DataCriterion` is."""

    share: float = 1.0

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Criterion:
        return Magnitude()


@dataclass(frozen=True)
class ByGradients(GradientCriterion):
    power: int = 1

    def term(self, gradient, samples):
        return gradient.abs() ** self.power * samples

    def score(self, mean, weight):
        return mean


@dataclass(frozen=True)
class Once:
    """A schedule, annotated as `Schedule` is."""

    epoch: int = 0

    def check(self, length: Length, sparsity: float) -> None:
        pass

    def due(self, now: Progress, last: Progress | None) -> bool:
        return last is None and now.epoch >= self.epoch

    def sparsity(self, now: Progress, final: float) -> float:
        return final

    def finished(self, last: Progress | None, final: float) -> bool:
        return last is not None
