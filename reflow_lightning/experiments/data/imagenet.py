"""ImageNet, or any images in one folder a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from reflow_lightning.experiments.data.images import (
    CalibrationTransform,
    Preprocessing,
    TransformedView,
    check_calibration_transform,
)
from reflow_lightning.experiments.data.splits import SplitDataModule, hold_out

_ARCHIVES = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


class ImageNetDataModule(SplitDataModule):
    """Images in ``train/<class>/`` and ``val/<class>/``: the latter are the test set.

    Validation is held out of the training images.

    Args:
        folder: Holds these two folders, or the three archives of ILSVRC 2012, which are then unpacked there.
        preprocessing: What the network wants. ``None``: 224 pixels and the usual normalisation.
        train: Folder of the training images.
        test: Folder of the test images.
        val_share: Share of the training images of each class that is held out.
        calibration_transform: ``"train"``, or ``"test"`` for no augmentation.
        batch_size: Images a batch.
        calibration_batch_size: Images a calibration batch.
        num_workers: Processes that decode images. ``None``: one a core, but at most 8.
        seed: Seed of the validation split.
    """

    def __init__(
        self,
        folder: str | Path,
        preprocessing: Preprocessing | None = None,
        train: str = "train",
        test: str = "val",
        val_share: float = 0.02,
        calibration_transform: CalibrationTransform = "train",
        batch_size: int = 256,
        calibration_batch_size: int = 128,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers
        super().__init__(batch_size, calibration_batch_size, workers)
        check_calibration_transform(calibration_transform)
        self.folder = Path(folder)
        self.preprocessing = preprocessing or Preprocessing()
        self.train, self.test = train, test
        self.val_share = val_share
        self.calibration_transform = calibration_transform
        self.seed = seed

    def prepare_data(self) -> None:
        """Unpack the archives if the folders are not there."""
        if all((self.folder / name).is_file() for name in _ARCHIVES):
            from torchvision.datasets import ImageNet

            for split in ("train", "val"):
                if not (self.folder / split).is_dir():
                    ImageNet(self.folder, split)

    def setup(self, stage: str | None = None) -> None:
        """List the images and split them."""
        if self.splits:
            return
        images, test = self._list(self.train), self._list(self.test)
        if images.classes != test.classes:
            odd = sorted(set(images.classes) ^ set(test.classes))
            raise ValueError(f"{self.folder}: {self.train}/ and {self.test}/ differ in the class folders {odd[:5]}")
        train, val = (part.tolist() for part in hold_out(torch.tensor(images.targets), self.val_share, self.seed))
        evaluation, training = self.preprocessing.evaluation(), self.preprocessing.training()
        calibration = training if self.calibration_transform == "train" else evaluation
        self.splits = {
            "train": TransformedView(images, train, training),
            "calibration": TransformedView(images, train, calibration),
            "val": TransformedView(images, val, evaluation),
            "test": TransformedView(test, None, evaluation),
        }

    def _list(self, name: str) -> Any:
        from torchvision.datasets import ImageFolder

        try:
            return ImageFolder(self.folder / name, loader=_load)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no images in {self.folder / name} ({error}): put them into {self.folder}/{self.train}/<class>/ and "
                f"{self.folder}/{self.test}/<class>/, or the archives {', '.join(_ARCHIVES)} into {self.folder}"
            ) from error


def _load(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is no image, or a damaged one ({error}): copy it anew, or remove it") from error
