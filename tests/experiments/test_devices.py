"""Runs of the application on two devices, which are two processes on the CPU here."""

import json
import os
import subprocess
import sys

import pytest
from experiments.test_resume import SMALL, STOP, configuration, outcome, same

from reflow_lightning.experiments.experiment import run

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def command(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    line = [sys.executable, "-m", "reflow_lightning", *SMALL, *TWO, *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_a_run_trains_prunes_tests_and_reports_once(tmp_path):
    done = command(tmp_path, "epochs=2", "hydra.run.dir=out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("results go to") == 1
    assert done.stdout.count("repaired") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["step"] for row in report["stages"].values()] == [8, 8, 8]
    assert report["stages"]["repaired"]["sparsity"] == pytest.approx(0.8, abs=1e-3)


def test_stopped_and_resumed_it_ends_like_one_that_never_stopped(tmp_path):
    assert command(tmp_path, "epochs=3", "seed=1", "hydra.run.dir=alone").returncode == 0
    (tmp_path / "stopping.py").write_text(STOP)
    stop = ("+callbacks.stop._target_=stopping.Stop", "+callbacks.stop.seed=1", "+callbacks.stop.signal=SIGTERM")
    first = command(tmp_path, "epochs=3", "seed=1", "hydra.run.dir=out", *stop)
    assert first.returncode == 143, first.stdout + first.stderr
    second = command(tmp_path, "epochs=3", "seed=1", "resume=true", "hydra.run.dir=out")
    assert second.returncode == 0, second.stdout + second.stderr
    assert same(outcome(tmp_path / "out"), outcome(tmp_path / "alone"))


def test_without_training_calibration_and_tests_are_shared_out(tmp_path):
    run(configuration("epochs=2", "sparsity=0.3"), tmp_path)
    arguments = (
        f"ckpt={tmp_path / 'pruned.ckpt'}",
        "train=false",
        "repair=batchnorm",
        "trainer.limit_test_batches=1.0",
    )
    done = command(tmp_path, *arguments, "hydra.run.dir=out")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calibration"]["batches"] == 2  # of both together
    (tmp_path / "alone").mkdir()
    alone = run(configuration(*arguments), tmp_path / "alone")
    for stage in ("dense", "pruned"):
        assert report["stages"][stage] == pytest.approx(alone["stages"][stage])
