"""A small data set in the layout of UCI HAR."""

import zipfile

import numpy as np

NAME = "UCI HAR Dataset"
CHANNELS = [f"{signal}_{axis}" for signal in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]


def text(values):
    return "\n".join(" ".join(f"{v: .7e}" for v in row) for row in np.atleast_2d(values)) + "\n"


def members(train=60, test=24, shift=0.0):
    """Contents by name; windows of value 1 to 9 by channel, and noise."""
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
