"""Jobs of a sweep that differ only after the first pruning share what comes before, and end as without that."""

import json

import pytest
from experiments.test_resume import PRETRAIN, SMALL, configuration, outcome, same
from scenarios.commands import application, application_afresh

from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.sharing import dense_key

SCHEDULES = {
    "after the last step": ("epochs=2",),
    "then fine-tuned": ("epochs=1", "finetune_epochs=1"),
    "within an epoch": ("epochs=2", "schedule=one_shot", "schedule.fraction=null", "schedule.step=6"),
    "with an epoch": ("epochs=3", "schedule=one_shot", "schedule.fraction=null", "schedule.epoch=1"),
    "two batches a step": ("epochs=2", "trainer.accumulate_grad_batches=2"),
    "in rounds": ("epochs=2", "finetune_epochs=4", "schedule=iterative", "sparsity=0.7"),
}


@pytest.mark.parametrize("overrides", [pytest.param(case, id=name) for name, case in SCHEDULES.items()])
def test_a_job_that_starts_from_the_shared_training_ends_as_one_that_trains_itself(overrides, tmp_path, recwarn):
    jobs = {"first": ("repair=none",), "second": ("criterion=random", "repair=batchnorm")}
    for name, job in jobs.items():
        alone, sharing = tmp_path / f"{name}_alone", tmp_path / name
        alone.mkdir()
        sharing.mkdir()
        run(configuration(*overrides, *job), alone)
        run(configuration(*overrides, *job, f"share={tmp_path / 'dense'}"), sharing)
        assert same(outcome(sharing), outcome(alone)), name
    shared = list(tmp_path.glob("dense/*"))
    assert len(shared) == (0 if "schedule=iterative" in overrides else 1)
    assert not [warning for warning in recwarn if "other arguments" in str(warning.message)]


def steps_trained(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [scalar.step for scalar in events.Scalars("variance/net.bn1")]


def test_a_sweep_trains_once_for_all_its_sparsities(tmp_path):
    monitor = ("reflow.monitor={_target_: reflow_lightning.SignalMonitor, every_n_steps: 1}",)
    command = ("-m", *SMALL, "logger=tensorboard", "epochs=3", "sparsity=0.5,0.8", "hydra.sweep.dir=sweep", *monitor)
    done = application(tmp_path, *command)
    assert done.status == 0, done.text
    assert steps_trained(tmp_path / "sweep" / "0") == list(range(12))
    assert steps_trained(tmp_path / "sweep" / "1") == [11]
    values = [json.loads((tmp_path / "sweep" / job / "report.json").read_text()) for job in "01"]
    assert values[0]["dense"] == values[1]["dense"]
    assert [round(value["sparsity"], 2) for value in values] == [0.5, 0.8]


def test_a_dense_training_of_its_own_is_shared_too(tmp_path):
    overrides = ("epochs=0", "finetune_epochs=1", "logger=tensorboard", *PRETRAIN)
    for job in ("sparsity=0.5", "sparsity=0.8"):
        alone, sharing = tmp_path / f"{job}alone", tmp_path / job
        alone.mkdir()
        sharing.mkdir()
        run(configuration(*overrides, job), alone)
        run(configuration(*overrides, job, f"share={tmp_path / 'dense'}"), sharing)
        assert same(outcome(sharing), outcome(alone)), job
        assert (sharing / "tensorboard" / "pretrain").exists() is (job == "sparsity=0.5")


@pytest.mark.slow
def test_jobs_that_run_at_once_do_not_disturb_each_other(tmp_path):
    line = ("-m", *SMALL, "epochs=2", "sparsity=0.5,0.7", "launcher=joblib", "hydra.launcher.n_jobs=2")
    done = application_afresh(tmp_path, *line, "hydra.sweep.dir=sweep")
    assert done.status == 0, done.text
    assert len(list((tmp_path / "sweep" / "dense").iterdir())) == 1


def test_a_shared_training_that_can_not_be_written_ends_no_job(tmp_path):
    (tmp_path / "dense").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be written, so that other jobs train what they could share"):
        run(configuration("epochs=1", f"share={tmp_path / 'dense'}"), tmp_path)


def test_what_matters_before_the_first_pruning_has_a_name_of_its_own():
    key = dense_key(configuration())
    for after in (
        "sparsity=0.5",
        "criterion=random",
        "repair=none",
        "steps=4",
        "reflow.calibration_batches=3",
        "callbacks=lr_monitor",
    ):
        assert dense_key(configuration(after)) == key
    for before in (
        "seed=1",
        "epochs=3",
        "optimizer.lr=0.3",
        "model.blocks=2",
        "data.batch_size=32",
        "finetune_epochs=1",
        "callbacks=early_stopping",
    ):
        assert dense_key(configuration(before)) != key
