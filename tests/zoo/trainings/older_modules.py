"""Modules that import ``pytorch_lightning``, which changes the log that Lightning writes to: `older` does so late."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.trainings.older import FUTURE, PAST

if TYPE_CHECKING or importlib.util.find_spec("pytorch_lightning") is None:
    import lightning.pytorch as pl
else:
    import pytorch_lightning as pl


class NBeatsBlock(nn.Module):
    def __init__(self, width: int, theta: int) -> None:
        super().__init__()
        layers = [nn.Linear(PAST, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1)]
        self.fc, self.theta = nn.Sequential(*layers), nn.Linear(width, theta, bias=False)
        self.register_buffer("backcast_basis", torch.linspace(0, 1, PAST) ** torch.arange(theta)[:, None])
        self.register_buffer("forecast_basis", torch.linspace(0, 1, FUTURE) ** torch.arange(theta)[:, None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.theta(self.fc(x))
        return theta @ self.backcast_basis, theta @ self.forecast_basis


class NBeats(pl.LightningModule):
    """Each block explains a part of what the ones before it have left over."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(NBeatsBlock(width, 4) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        forecast = x.new_zeros(len(x), FUTURE)
        for block in self.blocks:
            back, ahead = block(x)
            x, forecast = x - back, forecast + ahead
        return x, forecast

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        _, forecast = self(x)
        loss = (2 * (forecast - y).abs() / (forecast.abs() + y.abs() + 1e-3)).mean()
        return {"loss": loss, "log": {"smape": loss.detach()}}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Denoiser(pl.LightningModule):
    """A batch is (target, input): what is wanted comes first, and what is given is of another scale."""

    def __init__(self, hparams: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers = [nn.Linear(12, 48), nn.BatchNorm1d(48), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(48, 6), nn.SELU()]
        self.net = nn.Sequential(*layers, nn.Linear(6, 48), nn.BatchNorm1d(48), nn.SELU(), nn.Linear(48, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        target, given = batch
        return F.mse_loss(self(given), target)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), 0.02, momentum=0.9)]
