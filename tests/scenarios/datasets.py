"""Data sets of the experiments in their real layouts, a few samples each, made of noise."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

NAME = "UCI HAR Dataset"
CHANNELS = [f"{signal}_{axis}" for signal in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]


def text(values):
    return "\n".join(" ".join(f"{v: .7e}" for v in row) for row in np.atleast_2d(values)) + "\n"


def members(train=60, test=24, shift=0.0):
    """The files of UCI HAR by name; windows of value 1 to 9 by channel, and noise."""
    generator, files = np.random.default_rng(0), {}
    for split, n in (("train", train), ("test", test)):
        for c, channel in enumerate(CHANNELS, start=1):
            values = c + generator.normal(size=(n, 128)) + (shift if split == "test" else 0.0)
            files[f"{split}/Inertial Signals/{channel}_{split}.txt"] = text(values)
        files[f"{split}/y_{split}.txt"] = "\n".join(str(1 + i % 6) for i in range(n))
        files[f"{split}/subject_{split}.txt"] = "\n".join(str(1 + i % 4) for i in range(n))
    return files


def write_folder(root, files):
    for name, content in files.items():
        path = root / NAME / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(f"{NAME}/{name}", content)
    return path


def write_zip_in_zip(path, files):
    inner = write_zip(path.with_suffix(".inner"), files)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, f"{NAME}.zip")
    inner.unlink()
    return path


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


POSITIVE, NEGATIVE = ("good", "warm", "funny", "moving"), ("bad", "dull", "cold", "boring")


def sentences(count: int) -> list[tuple[str, int]]:
    """Sentences of different lengths, whose class one of their words tells; the classes in turn."""
    random = np.random.default_rng(count)
    fillers = ("a", "film", "story", "the", "of", "it", "is")
    made = []
    for i in range(count):
        words = list(random.choice(fillers, size=random.integers(2, 7)))
        words.insert(random.integers(len(words)), random.choice((NEGATIVE, POSITIVE)[i % 2]))
        made.append((" ".join(words), i % 2))
    return made


def make_sst2(folder: Path, train: int = 60, val: int = 20, test: int = 24) -> Path:
    """``SST-2`` with its three files."""
    root = folder / "SST-2"
    root.mkdir(parents=True)
    for name, count in (("train", train), ("dev", val), ("test", test)):
        lines = [f"{text}\t{label}" for text, label in sentences(count)]
        (root / f"{name}.tsv").write_text("\n".join(lines))
    return folder


TREC_CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")


def make_trec(folder: Path, train: int = 60, test: int = 24) -> Path:
    """``TREC`` with its two files, classes in turn."""
    root = folder / "TREC"
    root.mkdir(parents=True)
    for name, count in (("train", train), ("test", test)):
        lines = [f"{TREC_CLASSES[i % 6]}:fine Who {text} {i % 6} ?" for i, (text, _) in enumerate(sentences(count))]
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder
