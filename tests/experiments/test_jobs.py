"""What is said of an error: one line where it refuses what was given, its traceback where somebody must look for it."""

import os
import sys

import pytest
from scenarios.commands import application

SMALL = ("epochs=1", "model.blocks=1", "hydra.run.dir=out")
REFUSED = {
    "sparsity=1.5": "ValueError: sparsity=1.5 is outside [0, 1): 0.9 prunes 90 % of the selected weights",
    "schedule.fraction=2.0": "ValueError: OneShot(fraction=2.0) must be in [0, 1]",
    "+reflow.wrong=3": "TypeError: Reflow.__init__() got an unexpected keyword argument 'wrong'",
    "trainer.accelerator=none": "ValueError: You selected an invalid accelerator name",
    "extensions=[mine.py]": "ValueError: extensions=['mine.py']: there is no such file",
    "ckpt=nowhere.ckpt": "FileNotFoundError: ckpt=nowhere.ckpt does not exist",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_a_wrong_argument_is_answered_in_one_line(argument, tmp_path):
    done = application(tmp_path, *SMALL, argument)
    assert done.status == 1
    assert done.stderr.strip().startswith(f"reflow-lightning: {REFUSED[argument]}")
    assert len(done.stderr.strip().splitlines()) == 1


def full_error():
    os.environ["HYDRA_FULL_ERROR"] = "1"


def test_all_is_shown_if_it_is_asked_for(tmp_path):
    done = application(tmp_path, *SMALL, "sparsity=1.5", before=full_error)
    assert done.status == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == f"reflow-lightning: {REFUSED['sparsity=1.5']}"


def test_in_a_sweep_too_it_is_a_line_for_each_job(tmp_path):
    done = application(tmp_path, "-m", "sparsity=1.5,1.6", *SMALL)
    assert done.status == 1
    assert "this job failed, the sweep goes on: ValueError: sparsity=1.5 is outside" in done.text
    assert "Traceback" not in done.text


BROKEN = """
from lightning.pytorch import Callback

class Broken(Callback):
    def on_train_start(self, trainer, pl_module):
        raise ValueError("of somebody else's")
"""


def test_the_traceback_of_an_error_from_elsewhere_is_in_a_file(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done = application(tmp_path, *SMALL, "+callbacks.mine._target_=broken.Broken", before=import_from_here)
    assert done.status == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "reflow-lightning: ValueError: of somebody else's"
    text = (tmp_path / "out" / "error.txt").read_text()
    assert text.splitlines()[0] == "ValueError: of somebody else's"
    assert 'broken.py", line 6, in on_train_start' in text


def import_from_here():
    sys.path.insert(0, "")
