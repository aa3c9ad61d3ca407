"""scikit-learn's digits: 1,797 real handwritten digits of 8x8 pixels that come with the library."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from reflow_lightning.experiments.data.splits import SplitDataModule


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


class DigitsDataModule(SplitDataModule):
    """Digits as (1, 8, 8) images of zero mean and unit variance, split by class: 70 % train, 10 % val, 20 % test.

    Args:
        batch_size: Images a batch.
        calibration_batch_size: Images a calibration batch.
        seed: Seed of the split.

    Example:
        >>> data = DigitsDataModule(batch_size=32)
        >>> data.setup()
        >>> images, classes = next(iter(data.train_dataloader()))
        >>> images.shape
        torch.Size([32, 1, 8, 8])
    """

    def __init__(self, batch_size: int = 64, calibration_batch_size: int = 64, seed: int = 0) -> None:
        super().__init__(batch_size, calibration_batch_size)
        self.seed = seed

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
        shifted = ShiftedImages(images[train], classes[train])
        self.splits = {
            "train": shifted,
            "calibration": shifted,
            "val": TensorDataset(images[val], classes[val]),
            "test": TensorDataset(images[test], classes[test]),
        }
