"""Time series: dictionaries and tuples of several levels, states in lists, answers that are distributions."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from zoo.trainings.batches import SAMPLES, VALIDATION, Data, loader, normal, tensors, whole
from zoo.trainings.training import Training

PAST, FUTURE = 12, 4
QUANTILES = (0.1, 0.5, 0.9)


class GatedResidual(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.gate = nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.skip, self.norm, self.drop = nn.Linear(inputs, width), nn.LayerNorm(width), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.fc2(F.elu(self.fc1(x))))
        return self.norm(self.skip(x) + F.glu(self.gate(h), -1))


class TemporalFusion(pl.LightningModule):
    """A batch is (a dictionary, (target, weight)); ``forward`` returns a dictionary; the loss is of quantiles."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.categories = nn.ModuleDict({"store": nn.Embedding(5, 4), "day": nn.Embedding(7, 4)})
        self.encode, self.decode = GatedResidual(10, width), GatedResidual(5, width)
        self.lstm_encoder = nn.LSTM(width, width, batch_first=True)
        self.lstm_decoder = nn.LSTM(width, width, batch_first=True)
        self.attention, self.out = nn.MultiheadAttention(width, 2, 0.1, batch_first=True), nn.Linear(width, 3)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Any]:
        static = self.categories["store"](x["groups"])[:, None].expand(-1, PAST, -1)
        days = self.categories["day"](x["encoder_cat"])
        past, state = self.lstm_encoder(self.encode(torch.cat([x["encoder_cont"], static, days], -1)))
        future = self.decode(torch.cat([x["decoder_cont"], static[:, :FUTURE]], -1))
        h, _ = self.lstm_decoder(future, state)
        attended, weights = self.attention(h, torch.cat([past, h], 1), torch.cat([past, h], 1))
        return {"prediction": self.out(h + attended), "attention": weights, "x": x}

    def quantile_loss(self, y_pred: Tensor, target: Tensor) -> Tensor:
        errors = target[..., None] - y_pred
        q = torch.tensor(QUANTILES, device=errors.device)
        return torch.maximum((q - 1) * errors, q * errors).mean()

    def step(self, x: Any, y: Any, batch_idx: int) -> tuple[dict[str, Tensor], Any]:
        out = self(x)
        loss = self.quantile_loss(out["prediction"], y[0])
        return {"loss": loss, "n_samples": x["groups"].shape[0]}, out

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        log, _ = self.step(x, y, batch_idx)
        self.log("train_loss", log["loss"], batch_size=len(y[0]))
        return log

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        log, _ = self.step(*batch, batch_idx)
        self.log("val_loss", log["loss"], batch_size=len(batch[1][0]))
        return log

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 3e-3)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Chomp(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


class TCN(pl.LightningModule):
    """Convolutions whose weights are normalised, so that they are no parameters."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, inputs in enumerate((1, width)):
            conv = weight_norm(nn.Conv1d(inputs, width, 3, padding=2 * 2**i, dilation=2**i))
            layers += [conv, Chomp(2 * 2**i), nn.ReLU(), nn.Dropout(0.1)]
        self.tcn = nn.Sequential(*layers)
        self.linear = nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, FUTURE))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.tcn(x.transpose(1, 2))[:, :, -1])

    def training_step(self, batch: Any, batch_nb: int) -> Tensor:
        x, y = batch
        return F.mse_loss(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 2e-3)


class DeepAR(pl.LightningModule):
    """A recurrent network of cells whose states are lists, and which draws its own inputs beyond the past."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(2, width), nn.LSTMCell(width, width)])
        self.mu, self.sigma, self.drop = nn.Linear(width, 1), nn.Linear(width, 1), nn.Dropout(0.1)

    def _step(self, y: Tensor, x: Tensor, state: list[Any]) -> tuple[Tensor, Tensor]:
        h = torch.cat([y, x], 1)
        for i, cell in enumerate(self.cells):
            state[i] = cell(h, state[i])
            h = self.drop(state[i][0])
        return self.mu(h), F.softplus(self.sigma(h)) + 1e-3

    def forward(self, past: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor]:
        state: list[Any] = [None] * len(self.cells)
        mus, sigmas, y = [], [], past[:, :1]
        for t in range(covariates.shape[1]):
            y = past[:, t : t + 1] if t < past.shape[1] else mus[-1] + sigmas[-1] * torch.randn_like(y)
            mu, sigma = self._step(y, covariates[:, t : t + 1], state)
            mus.append(mu)
            sigmas.append(sigma)
        return torch.cat(mus, 1), torch.cat(sigmas, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        mu, sigma = self(batch["past"], batch["covariates"])
        truth = torch.cat([batch["past"], batch["future"]], 1)
        return -torch.distributions.Normal(mu[:, :-1], sigma[:, :-1]).log_prob(truth[:, 1:]).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 3e-3)


def waves(count: int = SAMPLES) -> Tensor:
    steps = torch.arange(PAST + FUTURE) / 2
    return (steps + normal(count, 1, seed=3)).sin() + 0.1 * normal(count, PAST + FUTURE, seed=4)


def frames() -> Any:
    count = SAMPLES + VALIDATION
    y = waves(count)
    cont = torch.stack([y, torch.arange(PAST + FUTURE).expand(count, -1) / 16], -1)
    x = {
        "encoder_cont": cont[:, :PAST],
        "encoder_cat": whole(7, count, PAST),
        "decoder_cont": cont[:, PAST:, 1:],
        "groups": whole(5, count),
    }
    return Data([({k: v[i] for k, v in x.items()}, (y[i, PAST:], torch.ones(FUTURE))) for i in range(count)])


def windows() -> Any:
    y = waves()
    return loader(tensors(y[:, :PAST, None], y[:, PAST:]))


def named() -> Any:
    y = waves()
    steps = torch.arange(PAST + FUTURE) / 16
    return loader([{"past": row[:PAST], "future": row[PAST:], "covariates": steps} for row in y])


TRAININGS = [
    Training("temporal_fusion", "batches of a dictionary and a tuple, outputs in a dictionary", TemporalFusion, frames),
    Training("tcn", "weights that are computed by weight_norm", TCN, windows, {"gradient_clip_val": 0.5}),
    Training("deepar", "cells with states in a list, draws its own inputs", DeepAR, named),
]
