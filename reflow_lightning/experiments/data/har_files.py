"""The files of UCI HAR: smartphone motion signals (Anguita et al. 2013), from a folder or an archive."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reflow_lightning.experiments.data.downloads import download_files

URL = "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip"
NAME = "UCI HAR Dataset"
CHANNELS = tuple(f"{signal}_{axis}" for signal in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
STEPS = 128
_REMEDY = f"put the archive of {URL} there, or the folder '{NAME}' that it holds"

Reader = Callable[[str], bytes]


def open_reader(root: Path) -> Reader:
    """Find the data set below a folder and return a function that reads one of its files.

    Args:
        root: The folder ``UCI HAR Dataset``, its zip archive, the archive that UCI serves (a zip in a zip), or a folder
            that holds one of these under the name it came with.

    Raises:
        FileNotFoundError: If there is none of them.
        ValueError: If the archive is damaged or another one.
    """
    for folder in (root, root / NAME):
        if (folder / "train" / "Inertial Signals").is_dir():
            return lambda name: _read(folder / name)
    for path in (root, root / f"{NAME}.zip", root / URL.rpartition("/")[2]):
        if path.is_file() and path.suffix == ".zip":
            return _zip_reader(path)
    raise FileNotFoundError(f"no UCI HAR data in {root}: {_REMEDY}")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from the UCI HAR data: {_REMEDY}")
    return path.read_bytes()


def _zip_reader(path: Path | io.BytesIO, shown: str | None = None) -> Reader:
    shown = shown or str(path)
    try:
        archive = zipfile.ZipFile(path)
        names = set(archive.namelist())
        if f"{NAME}.zip" in names:
            return _zip_reader(io.BytesIO(archive.read(f"{NAME}.zip")), shown)
    except Exception as error:  # what a damaged archive raises depends on its compression
        raise ValueError(f"{shown} is no zip archive, or a damaged one ({error}): {_REMEDY}") from error

    def read(name: str) -> bytes:
        if f"{NAME}/{name}" not in names:
            raise ValueError(f"{shown} lacks {NAME}/{name}: {_REMEDY}")
        try:
            return archive.read(f"{NAME}/{name}")
        except Exception as error:  # as above
            raise ValueError(f"{shown} is damaged at {name} ({error}): {_REMEDY}") from error

    return read


def parse(text: bytes, name: str, columns: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Parse whitespace-separated numbers, shape (rows, columns).

    Raises:
        ValueError: If something else stands there, or the number of values is no multiple of ``columns``.
    """
    try:
        values = np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{name} holds something that is no number ({error}): {_REMEDY}") from error
    if not len(values) or len(values) % columns or not np.isfinite(values).all():
        raise ValueError(f"{name} holds {len(values)} values, not rows of {columns} finite ones: {_REMEDY}")
    return values.reshape(-1, columns)


def read_split(read: Reader, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Read the official ``"train"`` or ``"test"`` split.

    Returns:
        Signals (N, 128, 9), activities 1 to 6 (N,), subjects (N,).

    Raises:
        ValueError: If a file is damaged, or the files differ in length.
    """
    signals = [
        parse(read(f"{split}/Inertial Signals/{channel}_{split}.txt"), f"{channel}_{split}.txt", STEPS)
        for channel in CHANNELS
    ]
    labels, subjects = (
        parse(read(f"{split}/{kind}_{split}.txt"), f"{kind}_{split}.txt", 1) for kind in ("y", "subject")
    )
    lengths = {len(part) for part in (*signals, labels, subjects)}
    if len(lengths) > 1:
        raise ValueError(f"the {split} files have different numbers of rows ({sorted(lengths)}): {_REMEDY}")
    return (
        torch.from_numpy(np.stack(signals, axis=-1)).float(),
        torch.from_numpy(labels[:, 0]).long(),
        torch.from_numpy(subjects[:, 0]).long(),
    )


def download(folder: Path, url: str = URL) -> None:
    """Download the archive into a folder; nothing half-finished is left behind.

    Raises:
        RuntimeError: If it can't be had.
    """
    download_files("the UCI HAR data", {folder / f"{NAME}.zip": url}, _zip_reader, f"{_REMEDY}, {folder}")
