"""Random data for trainings, in the same batches each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

SAMPLES, VALIDATION = 64, 16  # in batches of 8


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Whole numbers from 0 to below ``high``."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def labels(x: Tensor, classes: int) -> Tensor:
    """A class for each sample, which a network can learn."""
    flat = x.float().flatten(1)
    return (flat @ normal(flat.shape[1], classes, seed=99)).argmax(1)


def images(count: int = SAMPLES, size: int = 12, seed: int = 0) -> Tensor:
    """Images with some structure: few frequencies and noise."""
    coarse = torch.nn.functional.interpolate(normal(count, 3, 3, 3, seed=seed), size=size, mode="bilinear")
    return coarse + 0.3 * normal(count, 3, size, size, seed=seed + 1)


class ByEpoch(Sampler[int]):
    """Shuffles by the number of the epoch alone, so that a resumed training reads on in the same order."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist()

    def __len__(self) -> int:
        return self.count


def loader(samples: Any, collate_fn: Callable[[Any], Any] | None = None, batch_size: int = 8) -> DataLoader[Any]:
    """A shuffled loader of a data set, or of any sequence of samples."""
    return DataLoader(samples, batch_size, sampler=ByEpoch(len(samples)), collate_fn=collate_fn)


def tensors(*parts: Tensor) -> TensorDataset:
    """Samples as tuples."""
    return TensorDataset(*parts)


def dicts(**parts: Tensor) -> list[dict[str, Tensor]]:
    """Samples as dictionaries."""
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]


class Data(pl.LightningDataModule):
    """Some samples to train on, and the last ones to validate on."""

    def __init__(self, samples: Sequence[Any] | TensorDataset, collate_fn: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.samples, self.collate_fn = samples, collate_fn

    def setup(self, stage: str | None = None) -> None:
        """Split."""
        places = range(len(self.samples))
        self.train = torch.utils.data.Subset(self.samples, places[:-VALIDATION])
        self.val = torch.utils.data.Subset(self.samples, places[-VALIDATION:])

    def train_dataloader(self) -> DataLoader[Any]:
        """8 batches."""
        return loader(self.train, self.collate_fn)

    def val_dataloader(self) -> DataLoader[Any]:
        """2 batches."""
        return DataLoader(self.val, 8, collate_fn=self.collate_fn)
