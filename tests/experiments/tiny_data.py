"""Data sets of the experiments in their real layouts, a few samples each, made of noise."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from har import members, write_folder
from PIL import Image


def make_cifar10(folder: Path, images: int = 40) -> Path:
    """``cifar-10-batches-py`` with so many images a file, classes in turn."""
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = random.integers(0, 256, (images, 3072), dtype=np.uint8)
        (root / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(images)]}))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    return folder


def make_imagenet(folder: Path, classes: int = 3, images: int = 8) -> Path:
    """``imagenet/train`` and ``imagenet/val`` with one folder a class."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(classes):
            where = folder / "imagenet" / split / f"n{label:08}"
            where.mkdir(parents=True)
            for i in range(images):
                Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(where / f"{i}.jpeg")
    return folder


def make_har(folder: Path) -> Path:
    """The folder of UCI HAR."""
    return write_folder(folder, members())
