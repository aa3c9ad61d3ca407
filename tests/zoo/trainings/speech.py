"""Sounds: of several lengths, and turned into features in the step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from zoo.trainings.batches import SAMPLES, VALIDATION, Data, loader, normal, whole
from zoo.trainings.training import Training

LETTERS = 6


class CTC(pl.LightningModule):
    """A convolution over padded frames, a recurrent layer over packed ones, and no alignment."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(8, width, 3, 2, 1, bias=False), nn.BatchNorm1d(width), nn.Hardtanh(0, 20))
        self.rnn = nn.GRU(width, width, bidirectional=True)
        self.fc = nn.Sequential(nn.LayerNorm(2 * width), nn.Dropout(0.1), nn.Linear(2 * width, LETTERS + 1, bias=False))
        self.loss = nn.CTCLoss(blank=0, zero_infinity=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths = self.conv(x), (lengths + 1) // 2
        for i, length in enumerate(lengths):
            x[i, :, int(length) :] = 0
        packed = pack_padded_sequence(x.permute(2, 0, 1), lengths.cpu(), enforce_sorted=False)
        out, _ = pad_packed_sequence(self.rnn(packed)[0])
        return self.fc(out).log_softmax(-1), lengths

    def step(self, batch: Any) -> Tensor:
        inputs, targets, input_lengths, target_lengths = batch
        out, sizes = self(inputs, input_lengths)
        return self.loss(out, targets, sizes, target_lengths)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.step(batch)
        self.log("train_loss", loss, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.step(batch), batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 2e-3)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)]


class Keywords(pl.LightningModule):
    """Makes features of the waves under ``no_grad``, and hides parts of them; ``forward`` takes features."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(32), persistent=False)
        first = [nn.Conv1d(1, width, 5, 2, 2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        then = [nn.Conv1d(width, 2 * width, 5, 2, 2, bias=False), nn.BatchNorm1d(2 * width), nn.ReLU()]
        self.net = nn.Sequential(*first, *then, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2 * width, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @torch.no_grad()
    def features(self, wave: Tensor) -> Tensor:
        found = torch.stft(wave[:, 0], 32, 8, window=self.window, return_complex=True).abs().pow(2).add(1e-6).log()
        if self.training:
            start = int(torch.randint(0, found.shape[1] - 4, ()))
            found[:, start : start + 4] = found.mean()
        return found.flatten(1)[:, None]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        wave, label = batch
        return F.cross_entropy(self(self.features(wave)), label)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 2e-3)


def collate(samples: Any) -> Any:
    frames, words = zip(*samples, strict=True)
    padded = pad_sequence(list(frames), batch_first=True).transpose(1, 2).contiguous()
    lengths = [torch.tensor([len(part) for part in parts]) for parts in (frames, words)]
    return padded, torch.cat(words), *lengths


def spoken() -> Any:
    def sample(seed: int) -> tuple[Tensor, Tensor]:
        word = 1 + whole(LETTERS, 2 + seed % 3, seed=seed)
        frames = normal(LETTERS + 1, 8, seed=9)[word].repeat_interleave(4 + seed % 2, 0)
        return frames + 0.2 * normal(*frames.shape, seed=seed), word

    return Data([sample(i) for i in range(SAMPLES + VALIDATION)], collate)


def waves() -> Any:
    label = whole(4, SAMPLES)
    pitch = (1 + label[:, None]) * torch.arange(128) / 4
    return loader(list(zip((pitch.sin() + 0.3 * normal(SAMPLES, 128))[:, None], label, strict=True)))


TRAININGS = [
    Training("speech", "padded frames, packed within, lengths in the batch", CTC, spoken),
    Training("keywords", "features made in the step, of other shape than the batch", Keywords, waves),
]
