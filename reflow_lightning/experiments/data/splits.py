"""What the data modules share: loaders over named splits, one of them for calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class SplitDataModule(pl.LightningDataModule):
    """Loaders over ``splits``, which `setup` of a subclass fills with ``train``, ``val``, ``test`` and ``calibration``.

    Args:
        batch_size: Samples a batch.
        calibration_batch_size: Samples a calibration batch; larger ones give steadier batch statistics.
        num_workers: Processes that load the data. They end with each epoch, and begin the next from a seed, so that a
            resumed training gets the augmentation that it would have got.

    Attributes:
        splits: The data sets by name.
        collate: Makes a batch of samples; ``None``: as a DataLoader does by itself.
    """

    def __init__(self, batch_size: int, calibration_batch_size: int = 128, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.calibration_batch_size = calibration_batch_size
        self.num_workers = num_workers
        self.splits: dict[str, Dataset[Any]] = {}
        self.collate: Callable[[list[Any]], Any] | None = None

    def _loader(self, split: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            self.splits[split],
            batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.collate,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Training samples under the training transform, shuffled."""
        return self._loader("train", self.batch_size, shuffle=True)

    def calibration_dataloader(self) -> DataLoader[Any]:
        """What the BatchNorm statistics are re-estimated on, shuffled."""
        return self._loader("calibration", self.calibration_batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation samples, held out of the training set."""
        return self._loader("val", self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test samples."""
        return self._loader("test", self.batch_size)


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split positions at random into those that stay and those held out, the same share of every label.

    Args:
        labels: One label a sample, shape (N,).
        share: Share that is held out, in (0, 1).
        seed: Seed of the choice.

    Returns:
        Positions that stay and positions held out, each in ascending order.

    Raises:
        ValueError: If the share is outside (0, 1), or holds out no sample of any label.

    Example:
        >>> stay, held = hold_out(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
        >>> len(stay), len(held)
        (6, 2)
    """
    check_share(share)
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        where = (labels == label).nonzero()[:, 0]
        where = where[torch.randperm(len(where), generator=generator)]
        held[where[: round(share * len(where))]] = True
    if not held.any():
        raise ValueError(f"val_share={share} holds out none of {len(labels)} samples, label by label: use a larger one")
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def hold_out_groups(groups: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split positions into those that stay and those held out, whole groups at a time.

    Args:
        groups: One group a sample, shape (N,), such as the person that was measured.
        share: Share of the groups that is held out, in (0, 1); at least one is, and one stays.
        seed: Seed of the choice.

    Example:
        >>> hold_out_groups(torch.tensor([7, 7, 8, 8, 9]), 0.3, seed=0)
        (tensor([0, 1, 2, 3]), tensor([4]))
    """
    check_share(share)
    names = torch.unique(groups)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    count = max(1, min(len(names) - 1, round(share * len(names))))
    held = torch.isin(groups, names[order[:count]])
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def check_share(share: float) -> None:
    """Check a share that is held out.

    Raises:
        ValueError: If it leaves nothing on one side.
    """
    if not 0 < share < 1:
        raise ValueError(f"val_share={share} is outside (0, 1): 0.1 holds out a tenth of the training samples")
