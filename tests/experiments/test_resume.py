"""A run that was stopped and resumed ends like one that never stopped, bit for bit."""

import json
import os
import signal

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import open_dict

from reflow_lightning.experiments.data.digits import DigitsDataModule
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.resume import differences, only_one
from reflow_lightning.experiments.search import search

SMALL = (
    "model.blocks=1",
    "model.width=4",
    "reflow.calibration_batches=2",
    "title=test",
    "sparsity=0.8",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=2",
    "checkpoint.every_minutes=1e-9",  # after every step
)
PRETRAIN = ("+optimizer@pretrain.optimizer=sgd", "+scheduler@pretrain.scheduler=cosine", "+pretrain.total_epochs=2")


class Loaded(DigitsDataModule):
    """Digits that two processes load and shift at random."""

    def __init__(self, **options):
        super().__init__(**options)
        self.num_workers = 2


class Stopped(BaseException):
    """Stands for a machine that stops."""


class StopAfter(pl.Callback):
    """Stops the process once so many batches were trained on, after the checkpoint of that moment."""

    def __init__(self, batches, how=None):
        self.batches, self.how = batches, how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches -= 1
        if self.batches < 0:
            if self.how is None:
                raise Stopped
            os.kill(os.getpid(), self.how)


def configuration(*overrides, config="config"):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose(config, overrides=[*SMALL, *overrides])


def stopped(cfg, folder, batches, how=None, what=run, expected=Stopped):
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.callbacks.stop = {"_target_": f"{__name__}.StopAfter", "batches": batches, "how": how}
    with pytest.raises(expected):
        what(cfg, folder)


def outcome(folder):
    report = json.loads((folder / "report.json").read_text())
    weights = torch.load(folder / "pruned.ckpt", weights_only=True)["state_dict"]
    return {"stages": report["stages"], "validation": report["validation"], "rounds": report.get("rounds")}, weights


def same(first, second):
    (one, weights), (other, others) = first, second
    return one == other and all(torch.equal(value, others[name]) for name, value in weights.items())


CASES = {
    "pruned at the end": ("epochs=3",),
    "fine-tuned": ("epochs=1", "finetune_epochs=2"),
    "gradual": ("epochs=3", "schedule=gradual", "schedule.end=0.6", "schedule.every_n_steps=2"),
    "in rounds": ("epochs=1", "finetune_epochs=2", "schedule=iterative", "sparsity=0.7"),
    "augmented in two loading processes": ("epochs=1", "finetune_epochs=2", f"data._target_={__name__}.Loaded"),
    "two batches a step": ("epochs=3", "trainer.accumulate_grad_batches=2"),
}


@pytest.mark.parametrize("overrides", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_a_run_stopped_anywhere_and_resumed_ends_like_one_that_never_stopped(overrides, tmp_path):
    run(configuration(*overrides), tmp_path)
    alone = outcome(tmp_path)
    for batches in (2, 5, 8, 11):
        folder = tmp_path / str(batches)
        folder.mkdir()
        stopped(configuration(*overrides), folder, batches)
        assert (folder / "checkpoints" / "fit" / "last.ckpt").exists() is (batches > 1)
        run(configuration(*overrides, "resume=true"), folder)
        assert same(outcome(folder), alone), batches
        assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("batches", [3, 10])
def test_so_it_is_within_a_dense_training_before_and_after_it(batches, tmp_path):
    overrides = ("epochs=0", "finetune_epochs=2", *PRETRAIN)
    run(configuration(*overrides), tmp_path)
    folder = tmp_path / "stopped"
    folder.mkdir()
    if batches < 8:
        cfg = configuration(*overrides)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            patch.setattr("reflow_lightning.experiments.training.BestWeights.on_train_batch_start", stop_at(batches))
            run(cfg, folder)
    else:
        stopped(configuration(*overrides), folder, batches - 8)
        assert (folder / "dense.ckpt").exists()
    run(configuration(*overrides, "resume=true"), folder)
    assert same(outcome(folder), outcome(tmp_path))


def stop_at(batch):
    def stop(self, trainer, pl_module, _, batch_idx):
        if trainer.global_step == batch:
            raise Stopped

    return stop


def test_so_it_is_within_the_training_of_a_search(tmp_path):
    overrides = ("epochs=2", "tolerance=0.1")
    search(configuration(*overrides, config="search"), tmp_path)
    folder = tmp_path / "stopped"
    folder.mkdir()
    stopped(configuration(*overrides, config="search"), folder, 5, what=search)
    search(configuration(*overrides, "resume=true", config="search"), folder)
    assert same(outcome(folder), outcome(tmp_path))


def test_a_run_that_is_told_to_terminate_saves_before_it_ends(tmp_path):
    never = ("checkpoint.every_minutes=null", "epochs=3")
    run(configuration(*never), tmp_path)
    folder = tmp_path / "stopped"
    folder.mkdir()
    stopped(configuration(*never), folder, 5, how=int(signal.SIGTERM), expected=SystemExit)
    saved = torch.load(folder / "checkpoints" / "fit" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    run(configuration(*never, "resume=true"), folder)
    assert same(outcome(folder), outcome(tmp_path))


def test_a_truncated_checkpoint_gives_way_to_the_one_before(tmp_path, recwarn):
    run(configuration("epochs=2"), tmp_path)
    folder = tmp_path / "stopped"
    folder.mkdir()
    stopped(configuration("epochs=2"), folder, 5)
    last = folder / "checkpoints" / "fit" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    run(configuration("epochs=2", "resume=true"), folder)
    assert same(outcome(folder), outcome(tmp_path))
    assert any("can't be read" in str(warning.message) for warning in recwarn)
    stopped(configuration("epochs=2"), folder, 5)
    for path in last.parent.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"last.ckpt can't be read .*previous.ckpt.*: resume=false begins anew"):
        run(configuration("epochs=2", "resume=true"), folder)


def test_a_checkpoint_of_other_settings_is_refused_unless_forced(tmp_path):
    stopped(configuration("epochs=2"), tmp_path, 5)
    told = r"with other settings: epochs=2, now 3; .*optimizer.lr=0.1, now 0.05.*resume=force"
    with pytest.raises(ValueError, match=told):
        run(configuration("epochs=3", "optimizer.lr=0.05", "resume=true"), tmp_path)
    report = run(configuration("epochs=3", "optimizer.lr=0.05", "resume=force"), tmp_path)
    assert report["stages"]["repaired"]["step"] == 12


def test_a_checkpoint_can_be_named_and_weights_alone_can_not(tmp_path):
    run(configuration("epochs=2"), tmp_path)
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    stopped(configuration("epochs=2"), tmp_path / "first", 5)
    last = tmp_path / "first" / "checkpoints" / "fit" / "last.ckpt"
    run(configuration("epochs=2", f"ckpt_path={last}"), tmp_path / "second")
    assert same(outcome(tmp_path / "second"), outcome(tmp_path))
    assert last.exists()
    weights = tmp_path / "pruned.ckpt"
    with pytest.raises(ValueError, match=r"was not saved by reflow-lightning: pass ckpt="):
        run(configuration(f"ckpt_path={weights}"), tmp_path)


def test_a_run_with_nothing_to_go_on_from_begins(tmp_path):
    assert run(configuration("epochs=1", "resume=true"), tmp_path)["stages"]["dense"]["step"] == 4


def test_a_checkpoint_that_can_not_be_written_does_not_end_a_training(tmp_path, recwarn):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    report = run(configuration("epochs=1"), tmp_path)
    assert report["stages"]["dense"]["step"] == 4
    assert any("could not be written" in str(warning.message) for warning in recwarn)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with only_one(tmp_path), pytest.raises(ValueError, match="another run is at work in"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="resume='yes!' must be true, false or force"):
        run(configuration("resume='yes!'"), tmp_path)
    with pytest.raises(ValueError, match="checkpoint.every_minutes=0 must be positive"):
        run(configuration("checkpoint.every_minutes=0"), tmp_path)
    with pytest.raises(ValueError, match="checkpoint.every_n_epochs=0 must be at least 1"):
        run(configuration("checkpoint.every_n_epochs=0"), tmp_path)


def test_differences_are_told_by_key():
    assert differences({"a": 1}, {"a": 1}) == ""
    assert differences({"a": 1, "b": 2}, {"a": 3}) == "a=1, now 3; b=2, now not there"
