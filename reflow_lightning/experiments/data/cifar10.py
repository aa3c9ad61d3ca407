"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32 pixels in ten classes."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reflow_lightning.experiments.data.images import (
    CalibrationTransform,
    TransformedView,
    check_calibration_transform,
    normalized,
)
from reflow_lightning.experiments.data.splits import SplitDataModule, hold_out

_FOLDER = "cifar-10-batches-py"


class CIFAR10DataModule(SplitDataModule):
    """CIFAR-10 with random crops and flips in training; validation is held out of the training images.

    Args:
        folder: Holds ``cifar-10-batches-py``. Downloaded to there when absent.
        verify: Compare the files with the checksums of the originals; ``False`` for a copy that was packed anew, of a
            source that you trust, since such files can run code.
        download: Download when absent.
        val_share: Share of the training images of each class that is held out.
        padding: Pixels around the raw image before a random crop.
        padding_mode: ``"constant"`` (black) or ``"reflect"``.
        image_size: Height and width that images are scaled to at last; 32 leaves them, networks of ImageNet want 224.
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel.
        calibration_transform: ``"train"``, or ``"test"`` for no augmentation.
        batch_size: Images a batch.
        calibration_batch_size: Images a calibration batch.
        num_workers: Processes that load the data.
        seed: Seed of the validation split.
    """

    def __init__(
        self,
        folder: str | Path,
        verify: bool = True,
        download: bool = True,
        val_share: float = 0.1,
        padding: int = 4,
        padding_mode: str = "constant",
        image_size: int = 32,
        mean: Sequence[float] = (0.4914, 0.4822, 0.4465),
        std: Sequence[float] = (0.2023, 0.1994, 0.2010),
        calibration_transform: CalibrationTransform = "train",
        batch_size: int = 128,
        calibration_batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, calibration_batch_size, num_workers)
        check_calibration_transform(calibration_transform)
        self.folder = Path(folder)
        self.verify = verify
        self.download = download
        self.val_share = val_share
        self.padding, self.padding_mode = padding, padding_mode
        self.image_size = image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.calibration_transform = calibration_transform
        self.seed = seed

    def prepare_data(self) -> None:
        """Download the data if they are not there.

        Raises:
            RuntimeError: If they can't be had.
        """
        if (self.folder / _FOLDER).exists() or not self.download:
            return  # files that lie there are not replaced
        from torchvision.datasets import CIFAR10

        try:
            CIFAR10(self.folder, download=True)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            raise RuntimeError(f"could not download CIFAR-10 ({error}): {self._remedy()}") from error

    def setup(self, stage: str | None = None) -> None:
        """Read and split the data."""
        if self.splits:
            return
        from torchvision.transforms import v2

        scaled = [] if self.image_size == 32 else [v2.Resize(self.image_size)]
        plain = normalized(self.mean, self.std, *scaled)
        crop = v2.RandomCrop(32, padding=self.padding, padding_mode=self.padding_mode)
        augmented = normalized(self.mean, self.std, crop, v2.RandomHorizontalFlip(), *scaled)
        images = self._read(train=True)
        train, val = (part.tolist() for part in hold_out(torch.tensor(images.targets), self.val_share, self.seed))
        calibration = augmented if self.calibration_transform == "train" else plain
        self.splits = {
            "train": TransformedView(images, train, augmented),
            "calibration": TransformedView(images, train, calibration),
            "val": TransformedView(images, val, plain),
            "test": TransformedView(self._read(train=False), None, plain),
        }

    def _read(self, train: bool) -> Any:
        from torchvision.datasets import CIFAR10

        try:
            images = (CIFAR10 if self.verify else _unverified())(self.folder, train=train)
            if len(images.data) != len(images.targets):
                raise ValueError(f"{len(images.data)} images, but {len(images.targets)} classes")
            return images
        except RuntimeError as error:  # torchvision's answer to a missing file and to a wrong checksum
            if self.verify and (self.folder / _FOLDER).exists():
                raise ValueError(
                    f"the files in {self.folder / _FOLDER} are incomplete or not the original ones: {self._remedy()}, "
                    "or set verify=False (data.verify=false) if they were packed anew on purpose"
                ) from error
            raise FileNotFoundError(f"no complete CIFAR-10 in {self.folder}: {self._remedy()}") from error
        except Exception as error:  # what a damaged pickle raises has no common type
            raise ValueError(f"a file in {self.folder / _FOLDER} is damaged ({error}): {self._remedy()}") from error

    def _remedy(self) -> str:
        return f"unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz so that {self.folder / _FOLDER} exists"


def _unverified() -> Any:
    from torchvision.datasets import CIFAR10

    class Unverified(CIFAR10):  # type: ignore[misc]
        """The same files without their checksums."""

        train_list = [[name, None] for name, _ in CIFAR10.train_list]  # noqa: RUF012
        test_list = [[name, None] for name, _ in CIFAR10.test_list]  # noqa: RUF012
        meta = {**CIFAR10.meta, "md5": None}  # noqa: RUF012

    return Unverified
