"""Choices of the groups around a training: each runs, and does what its comment says."""

import pytest
from experiments.test_resume import SMALL
from scenarios.commands import application


@pytest.mark.parametrize("choice", ["early_stopping", "lr_monitor", "rich_bar", "many"])
def test_callbacks(choice, tmp_path):
    done = application(tmp_path, *SMALL, "epochs=1", f"callbacks={choice}", "trainer=cpu")
    assert done.status == 0, done.text


@pytest.mark.parametrize("choice", ["fdr", "limit", "overfit", "profiler"])
def test_ways_to_try_a_run(choice, tmp_path):
    done = application(tmp_path, "model.blocks=1", f"debug={choice}", "epochs=1", "hydra.run.dir=out")
    assert done.status == 0, done.text
    assert (tmp_path / "out" / "report.json").exists()
    assert (tmp_path / "out" / "fit-profile.txt").exists() is (choice == "profiler")
    assert (tmp_path / "out" / "tensorboard").exists() is (choice != "fdr")
