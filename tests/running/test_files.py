import errno
from pathlib import Path

import pytest
import torch

from reflow_lightning.running.files import read_tensors, write_whole


def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.bin'"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


class Payload:
    def __reduce__(self):
        return open, ("payload", "w")


def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, "bad.pt")
    with pytest.raises(ValueError, match="holds more than tensors and plain types"):
        read_tensors(Path("bad.pt"))
    assert not Path("payload").exists()


def test_a_missing_folder_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing/a\.bin"):
        write_whole(tmp_path / "missing" / "a.bin", b"new")
