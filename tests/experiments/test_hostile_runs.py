"""The application where it can't go on: what it says last, how it exits, and that nothing half-written counts."""

import ctypes
import json
import os
import resource
import sys
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_module
from scenarios.commands import application, application_afresh

from reflow_lightning import Masks
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.experiments.results import fingerprint, note_error, read_finished, write_report

SMALL = ("epochs=1", "model.blocks=1", "reflow.calibration_batches=2", "title=test")
LIMITED = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
_DROP_CAPABILITY, _WRITE_ANYWHERE = 24, 1  # prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)


def launch(folder, *arguments, before=None):
    """Run the application in a folder: its exit status and what it printed."""
    done = application(folder, *arguments, *SMALL, *LIMITED, before=before)
    return done.status, done.text


def launch_afresh(folder, *arguments, before):
    """The same, in an interpreter that starts from nothing, which takes away what `before` takes away."""
    done = application_afresh(folder, *arguments, *SMALL, *LIMITED, before=before)
    return done.status, done.text


def files(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


# -- nothing can be written


def limit_files_to(kilobytes):
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (kilobytes << 10, kilobytes << 10))


def test_on_a_full_disk_the_last_line_says_so_and_no_half_file_stays(tmp_path):
    status, text = launch(tmp_path, "hydra.run.dir=out", "logger=csv", before=limit_files_to(50))
    assert status == 1
    assert text.splitlines()[-1].startswith("reflow-lightning: OSError: [Errno 27] File too large: ")
    assert text.splitlines()[-1].endswith("out/pruned.ckpt'")
    assert not {"report.json", "pruned.ckpt", "signal.csv"} & {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in files(tmp_path) if name.startswith(".pruned.ckpt")]
    assert "File too large" in (tmp_path / "out" / "error.txt").read_text()


def test_a_sweep_on_a_full_disk_goes_on_and_names_all_jobs(tmp_path):
    status, text = launch(tmp_path, "-m", "seed=1,2", "hydra.sweep.dir=out", before=limit_files_to(50))
    assert status == 1
    assert "2 jobs, 2 failed: 0, 1" in text
    assert text.count("OSError: [Errno 27] File too large") >= 2
    assert "report.json" not in files(tmp_path)


def obey_permissions():
    """As root, too: a process that is started without this capability may not write anywhere."""
    ctypes.CDLL(None).prctl(_DROP_CAPABILITY, _WRITE_ANYWHERE, 0, 0, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes a capability of Linux away")
def test_a_folder_that_is_read_only_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        status, text = launch_afresh(tmp_path, "hydra.run.dir=locked", before=obey_permissions)
    finally:
        folder.chmod(0o755)
    assert status == 1
    assert "Permission denied: '" in text
    assert "locked" in text
    assert files(folder) == set()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    status, text = launch(tmp_path, "hydra.run.dir=out/1")
    assert status == 1
    assert "Not a directory: 'out/1'" in text
    assert (tmp_path / "out").read_text() == "a file"


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    cfg = configuration()
    write_report(tmp_path, {"config": fingerprint(cfg)})
    assert read_finished(tmp_path, cfg)
    with pytest.raises(TypeError):
        write_report(tmp_path, {"config": object()})
    assert read_finished(tmp_path, cfg)
    whole = (tmp_path / "report.json").read_bytes()
    for end in range(len(whole) - 1):
        (tmp_path / "report.json").write_bytes(whole[:end])
        assert read_finished(tmp_path, cfg) is None


def test_an_error_takes_the_place_of_a_report(tmp_path):
    write_report(tmp_path, {})
    note_error(tmp_path, ValueError("no"))
    assert files(tmp_path) == {"error.txt"}
    note_error(tmp_path / "missing", ValueError("no"))  # is no error of its own


# -- a checkpoint that is none


def configuration(*overrides):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose("config", overrides=[*SMALL, "train=false", *overrides])


class RunsCode:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def truncated(path):
    torch.save(ResNet(1, in_channels=1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGED = "can't be read as tensors, or is damaged"
WRONG = {
    "truncated": (truncated, DAMAGED),
    "empty": (lambda path: path.write_bytes(b""), DAMAGED),
    "text": (lambda path: path.write_text("<!DOCTYPE html><html>404 Not Found</html>"), DAMAGED),
    "report": (lambda path: path.write_text(json.dumps({"state_dict": {}})), DAMAGED),
    "code": (lambda path: torch.save({"state_dict": RunsCode(path.with_name("made"))}, path), "more than tensors"),
    "masks": (Masks({"a": torch.ones(3, dtype=torch.bool)}).save, "is not of this ResNet: it lacks"),
    "network": (lambda path: torch.save(ResNet(2, in_channels=1).state_dict(), path), "is not of this ResNet: it also"),
    "numbers": (lambda path: torch.save({"epoch": 3}, path), "holds no weights"),
    "folder": (lambda path: path.mkdir(), "is no file"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_checkpoint_of_the_wrong_kind_is_named_and_leaves_nothing_behind(kind, tmp_path):
    make, text = WRONG[kind]
    make(tmp_path / "dense.ckpt")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=rf"ckpt=.*dense\.ckpt .*{text}"):
        run(configuration(f"ckpt={tmp_path / 'dense.ckpt'}"), out)
    assert files(out) == set()
    assert not (tmp_path / "made").exists()


def test_of_a_long_traceback_the_last_line_is_the_message(tmp_path):
    (tmp_path / "dense.ckpt").write_bytes(b"")
    status, text = launch(tmp_path, "train=false", "ckpt=dense.ckpt", "hydra.run.dir=out")
    assert status == 1
    [*_, empty, last] = text.splitlines()
    assert not empty
    assert last == f"reflow-lightning: ValueError: ckpt=dense.ckpt {DAMAGED}: EOFError"
    assert (tmp_path / "out" / "error.txt").read_text().splitlines()[0] == last.removeprefix("reflow-lightning: ")


# -- overrides that are none


@pytest.mark.skipif(sys.gettrace() is not None, reason="Hydra takes what traces, such as coverage, for a debugger")
@pytest.mark.parametrize(
    ("argument", "status", "text"),
    [
        ("sparsity=[", 1, "no viable alternative at input '['"),
        ("~sparsty", 1, "Could not delete from config. 'sparsty' does not exist"),
        ("epochs=many", 2, "epochs=many is no number; the default is 30"),
    ],
)
def test_a_malformed_override_is_answered_in_a_few_lines(argument, status, text, tmp_path):
    returned, answer = launch(tmp_path, "hydra.run.dir=out", "data=digits", argument)
    assert returned == status
    assert text in answer
    assert len(answer.splitlines()) < 12
    assert "report.json" not in files(tmp_path)
