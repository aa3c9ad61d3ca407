"""scikit-learn's digits: 1,797 real handwritten digits of 8x8 pixels that come with the library."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset


class ShiftedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images shifted by up to one pixel in each direction, at random: a training transform that suits small digits.

    Args:
        images: Tensor of shape (N, C, H, W); the least value is taken for the background.
        classes: Tensor of shape (N,).
    """

    def __init__(self, images: Tensor, classes: Tensor) -> None:
        self.images = functional.pad(images, (1, 1, 1, 1), value=float(images.min()))
        self.classes = classes

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        down, right = torch.randint(3, (2,)).tolist()
        height, width = self.images.shape[2] - 2, self.images.shape[3] - 2
        return self.images[index, :, down : down + height, right : right + width], self.classes[index]


class DigitsDataModule(pl.LightningDataModule):
    """Digits as (1, 8, 8) images of zero mean and unit variance, split by class: 70 % train, 10 % val, 20 % test.

    Args:
        batch_size: Images a batch.
        seed: Seed of the split.

    Example:
        >>> data = DigitsDataModule(batch_size=32)
        >>> data.setup()
        >>> images, classes = next(iter(data.train_dataloader()))
        >>> images.shape
        torch.Size([32, 1, 8, 8])
    """

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.splits: dict[str, Dataset[Any]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read and split the data."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        classes = torch.tensor(digits.target)
        rest, test = train_test_split(range(len(classes)), test_size=0.2, stratify=classes, random_state=self.seed)
        train, val = train_test_split(rest, test_size=0.125, stratify=classes[rest], random_state=self.seed)
        images = (images - images[train].mean()) / images[train].std()

        self.splits = {
            "train": ShiftedImages(images[train], classes[train]),
            "val": TensorDataset(images[val], classes[val]),
            "test": TensorDataset(images[test], classes[test]),
        }

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(self.splits[split], self.batch_size, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training images, shuffled."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation images."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images."""
        return self._loader("test")
