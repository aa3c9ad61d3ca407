"""ImageNet as a stream of large chunks, from a disk or a bucket, by litdata (the extra ``stream``).

python -m reflow_lightning.experiments.data.imagenet_stream imagenet/train stream/train
python -m reflow_lightning.experiments.data.imagenet_stream imagenet/val stream/val
reflow-lightning data=imagenet_stream data.folder=stream model=torchvision name=resnet50 weights=DEFAULT train=false
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from reflow_lightning.experiments.data.images import (
    CalibrationTransform,
    Preprocessing,
    Transform,
    check_calibration_transform,
)
from reflow_lightning.experiments.data.splits import SplitDataModule, check_share


class StreamedImageNetDataModule(SplitDataModule):
    """What `write_stream` made of the training images in ``<folder>/train`` and of the test images in ``<folder>/val``.

    Args:
        folder: Holds both; a local one or a URL such as ``s3://bucket/imagenet``.
        preprocessing: What the network wants. ``None``: 224 pixels and the usual normalisation.
        val_share: Share of the training images that is held out.
        calibration_transform: ``"train"``, or ``"test"`` for no augmentation.
        batch_size: Images a batch.
        calibration_batch_size: Images a calibration batch.
        num_workers: Processes that decode images. ``None``: one a core, but at most 8.
        seed: Seed of the validation split and of the order.
    """

    def __init__(
        self,
        folder: str | Path,
        preprocessing: Preprocessing | None = None,
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
        check_share(val_share)
        self.folder = str(folder)
        self.preprocessing = preprocessing or Preprocessing()
        self.val_share = val_share
        self.calibration_transform = calibration_transform
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        """Open the streams and split the first."""
        if self.splits:
            return
        evaluation, training = self.preprocessing.evaluation(), self.preprocessing.training()
        calibration = training if self.calibration_transform == "train" else evaluation
        self.splits = {
            "train": self._part(training, held_out=False),
            "calibration": self._part(calibration, held_out=False),
            "val": self._part(evaluation, held_out=True),
            "test": self._open("val", evaluation, shuffle=False),
        }

    def _open(self, split: str, transform: Transform, shuffle: bool) -> Any:
        from litdata import StreamingDataset

        folder = f"{self.folder}/{split}"
        if "://" not in folder and not Path(folder, "index.json").is_file():
            raise FileNotFoundError(
                f"no stream in {folder}: make it with python -m {__name__} IMAGES/{split} {folder}, "
                f"where IMAGES/{split} has one folder a class"
            )

        return StreamingDataset(folder, shuffle=shuffle, seed=self.seed, transform=_Decoder(transform))

    def _part(self, transform: Transform, held_out: bool) -> Any:
        from litdata import train_test_split

        images = self._open("train", transform, shuffle=not held_out)
        kept, held = train_test_split(images, splits=[1 - self.val_share, self.val_share], seed=self.seed)
        return held if held_out else kept

    def _loader(self, split: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        """The dataset itself says whether it is shuffled."""
        from litdata import StreamingDataLoader

        loader: DataLoader[Any] = StreamingDataLoader(
            self.splits[split], batch_size=batch_size, num_workers=self.num_workers
        )
        return loader


@dataclass(frozen=True)
class _Decoder:
    """Decodes and transforms a sample, in the worker."""

    transform: Transform

    def __call__(self, sample: Mapping[str, Any]) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.open(io.BytesIO(sample["image"])).convert("RGB")), int(sample["label"])


def _pack(item: tuple[str, int]) -> dict[str, Any]:
    path, label = item
    return {"image": Path(path).read_bytes(), "label": label}


def write_stream(
    images: str | Path, output: str | Path, num_workers: int = 1, chunk_bytes: str = "64MB", seed: int = 0
) -> None:
    """Pack a folder with one subfolder a class into a stream, in random order; the images keep their bytes.

    litdata shuffles and splits whole files of the stream and little within: in the order of the classes a validation
    set would hold a few of them only, and a batch one or two.

    Args:
        images: The folder.
        output: Where the stream goes, empty or absent.
        num_workers: Processes that read.
        chunk_bytes: Size of a file of the stream.
        seed: Seed of the order.
    """
    from litdata import optimize
    from torchvision.datasets import ImageFolder

    samples = ImageFolder(images).samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    optimize(
        fn=_pack,
        inputs=[samples[i] for i in order.tolist()],
        output_dir=str(output),
        num_workers=num_workers,
        chunk_bytes=chunk_bytes,
    )


if __name__ == "__main__":
    write_stream(sys.argv[1], sys.argv[2], num_workers=os.cpu_count() or 1)
