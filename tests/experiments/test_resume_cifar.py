"""A real training on CIFAR-10, killed in its second epoch: what it gives when it is started again."""

import pytest
from experiments.test_resume import outcome, same
from scenarios.commands import application

pytestmark = [pytest.mark.slow, pytest.mark.data]

KILL = """
import os, signal
import lightning.pytorch as pl

class Kill(pl.Callback):
    def __init__(self, seed, batch):
        self.seed, self.batch = seed, batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        here = trainer.global_step == self.batch and os.environ["PL_GLOBAL_SEED"] == str(self.seed)
        if here and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
"""
RUN = (
    "data=cifar10",
    "data.verify=false",
    "model=resnet20",
    "model.blocks=1",
    "logger=csv",
    "data.batch_size=32",
    "epochs=2",
    "trainer.limit_train_batches=12",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=4",
    "reflow.calibration_batches=2",
    "checkpoint.every_minutes=0.02",
    "trainer.accelerator=cpu",
)
PRETRAIN = ("+optimizer@pretrain.optimizer=sgd", "+scheduler@pretrain.scheduler=cosine", "+pretrain.total_epochs=2")
SWEEP = ("-m", "seed=0,1", "share=false")


def command(folder, data, *arguments):
    done = application(folder, *arguments, *RUN, f"data_dir={data}")
    return done.status, done.text


def killed(folder, data, *arguments, seed=0, batch=17):
    (folder / "killing.py").write_text(KILL)
    kill = ("+callbacks.kill._target_=killing.Kill", f"+callbacks.kill.seed={seed}", f"+callbacks.kill.batch={batch}")
    status, text = command(folder, data, *arguments, *kill)
    assert status == -9, text
    return (*arguments, *kill)  # it kills once


@pytest.mark.parametrize("before", [(), PRETRAIN])
def test_a_run_that_was_killed_ends_like_one_that_was_not(before, real_data, tmp_path):
    status, text = command(tmp_path, real_data, *before, "hydra.run.dir=alone")
    assert status == 0, text
    killed(tmp_path, real_data, *before, "hydra.run.dir=out")
    assert not (tmp_path / "out" / "report.json").exists()
    status, text = command(tmp_path, real_data, *before, "hydra.run.dir=out", "resume=true")
    assert status == 0, text
    assert "Restor" not in text  # Lightning's own words
    assert same(outcome(tmp_path / "out"), outcome(tmp_path / "alone"))


def test_a_sweep_that_was_killed_in_its_second_job_ends_like_one_that_was_not(real_data, tmp_path):
    status, text = command(tmp_path, real_data, *SWEEP, "hydra.sweep.dir=alone")
    assert status == 0, text
    again = killed(tmp_path, real_data, *SWEEP, "hydra.sweep.dir=sweep", seed=1)
    status, text = command(tmp_path, real_data, *again)
    assert status == 0, text
    assert text.count("holds the result of this job already: skipped") == 1
    for job in range(2):
        assert same(outcome(tmp_path / "sweep" / str(job)), outcome(tmp_path / "alone" / str(job))), job
