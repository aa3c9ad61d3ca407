"""A run that was stopped and resumed ends like one that never stopped, bit for bit."""

import json
import os
import signal
import sys

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import open_dict
from scenarios.commands import application
from torch.utils.data import DataLoader, DistributedSampler

from reflow_lightning.experiments.data.digits import DigitsDataModule
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.resume import differences, only_one
from reflow_lightning.experiments.saving import Checkpoints
from reflow_lightning.experiments.search import search
from reflow_lightning.experiments.unfinished import taken_up

SMALL = (
    "model.blocks=1",
    "model.width=4",
    "reflow.calibration_batches=2",
    "title=test",
    "logger=csv",  # draws no pictures
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


class ByEpoch(DigitsDataModule):
    """Digits in an order that follows from the number of the epoch, as on several devices."""

    def train_dataloader(self):
        data = self.splits["train"]
        return DataLoader(data, self.batch_size, sampler=DistributedSampler(data, num_replicas=1, rank=0))


class OwnGenerator(DigitsDataModule):
    """Digits in an order that a generator of the data module draws."""

    def __init__(self, **options):
        super().__init__(**options)
        self.draws = {"order": torch.Generator().manual_seed(3)}

    def train_dataloader(self):
        return DataLoader(self.splits["train"], self.batch_size, shuffle=True, generator=self.draws["order"])


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
    "in an order by epoch": ("epochs=3", f"data._target_={__name__}.ByEpoch"),
    "in an order that the data module draws": ("epochs=3", f"data._target_={__name__}.OwnGenerator"),
    "validated within epochs": ("epochs=2", "finetune_epochs=1", "+trainer.val_check_interval=2"),
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
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("reflow_lightning.experiments.training.BestWeights.on_train_batch_start", stop_at(batches))
            stopped(configuration(*overrides), folder, 99)
    else:
        stopped(configuration(*overrides), folder, batches - 8)
        assert (folder / "dense.ckpt").exists()
    run(configuration(*overrides, "resume=true"), folder)
    assert same(outcome(folder), outcome(tmp_path))


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end"])
def test_so_it_is_where_the_dense_training_had_just_ended(hook, tmp_path, monkeypatch):
    """Nothing is left to train then, and what comes next must draw as after the training."""
    overrides = ("epochs=0", "finetune_epochs=2", *PRETRAIN)
    run(configuration(*overrides), tmp_path)
    folder = tmp_path / "stopped"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(f"reflow_lightning.experiments.saving.Checkpoints.{hook}", stop_after_saving(hook))
        stopped(configuration(*overrides), folder, 99)
    assert not (folder / "dense.ckpt").exists()
    run(configuration(*overrides, "resume=true"), folder)
    assert same(outcome(folder), outcome(tmp_path))


def stop_after_saving(hook):
    before = getattr(Checkpoints, hook)

    def save_and_stop(self, trainer, pl_module):
        before(self, trainer, pl_module)
        if trainer.global_step == 8:
            raise Stopped

    return save_and_stop


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


@pytest.mark.parametrize("overrides", [(), ("+trainer.val_check_interval=3",)])
def test_told_to_terminate_at_any_batch_it_ends_like_one_that_was_not(overrides, tmp_path):
    never = ("checkpoint.every_minutes=null", "epochs=2", "finetune_epochs=1", *overrides)
    run(configuration(*never), tmp_path)
    for batch in range(9):
        folder = tmp_path / f"stopped_{batch}"
        folder.mkdir()
        stopped(configuration(*never), folder, batch, how=int(signal.SIGTERM), expected=SystemExit)
        run(configuration(*never, "resume=true"), folder)
        assert same(outcome(folder), outcome(tmp_path)), f"stopped at batch {batch}"


STOP = """
import os, signal
import lightning.pytorch as pl

class Stop(pl.Callback):
    def __init__(self, seed, signal):
        self.seed, self.signal = seed, signal

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        first = not os.path.exists("stopped")
        if first and trainer.global_step == 5 and os.environ["PL_GLOBAL_SEED"] == str(self.seed):
            open("stopped", "w").close()
            os.kill(os.getpid(), getattr(signal, self.signal))
"""
STOPPING = ("+callbacks.stop._target_=stopping.Stop", "+callbacks.stop.seed=1")


def import_from_here():
    sys.path.insert(0, "")


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_the_same_command_goes_on_where_the_run_was_stopped(name, status, tmp_path):
    (tmp_path / "stopping.py").write_text(STOP)
    command = (*SMALL, "epochs=3", "seed=1", *STOPPING, f"+callbacks.stop.signal={name}")
    first = application(tmp_path, *command, before=import_from_here)
    assert first.status == status
    assert first.stderr.splitlines()[-1] == (
        f"reflow-lightning: stopped by {'Ctrl-C' if name == 'SIGINT' else name}; the same command with resume=true "
        "goes on from its last checkpoint"
    )
    second = application(tmp_path, *command, "resume=true", before=import_from_here)
    assert second.status == 0, second.text
    (folder,) = (tmp_path / "outputs").glob("*/*")
    (tmp_path / "alone").mkdir()
    run(configuration("epochs=3", "seed=1"), tmp_path / "alone")
    assert same(outcome(folder), outcome(tmp_path / "alone"))


def test_the_folder_of_an_unfinished_run_is_found_with_a_folder_of_ones_own_configuration(tmp_path, monkeypatch):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nepochs: 3\n")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "day" / "hour"
    folder.mkdir(parents=True)
    stopped(configuration("epochs=3"), folder, 5)
    found = ["hydra.run.dir=outputs/day/hour"]
    for option in (["--config-dir", "mine"], ["--config-dir=mine"], ["-cd", "mine"]):
        assert taken_up([*option, *SMALL, "experiment=own", "resume=true"]) == found
    assert taken_up([*SMALL, "epochs=2", "resume=true"]) == []  # of other settings
    assert taken_up([*SMALL, "epochs=3"]) == []
    assert taken_up(["-m", *SMALL, "epochs=3", "resume=true"]) == []
    assert taken_up([*SMALL, "epochs=3", "resume=true", "hydra.run.dir=out"]) == []
    assert taken_up([*SMALL, "no_such_key=3", "resume=true"]) == []
    (tmp_path / "mine" / "my.yaml").write_text("defaults: [config, _self_]\nepochs: 3\n")
    assert taken_up(["--config-dir=mine", "--config-name=my", *SMALL, "resume=true"]) == found
    assert taken_up([*SMALL, "epochs=3", "resume=true", "+trainer.default_root_dir=${hydra:runtime.output_dir}"]) == []


def test_a_run_never_begins_anew_where_an_unfinished_one_is_without_being_asked(tmp_path):
    (tmp_path / "stopping.py").write_text(STOP)
    command = (*SMALL, "epochs=3", "seed=1", *STOPPING, "+callbacks.stop.signal=SIGTERM", "hydra.run.dir=out")
    application(tmp_path, *command, before=import_from_here)
    refused = application(tmp_path, *command, before=import_from_here)
    assert (refused.status, "out holds an unfinished run: resume=true goes on with it" in refused.stderr) == (1, True)
    assert application(tmp_path, *command, "resume=false", before=import_from_here).status == 0


def test_a_sweep_started_again_goes_on_with_its_unfinished_jobs(tmp_path):
    (tmp_path / "stopping.py").write_text(STOP)
    command = ("-m", *SMALL, "epochs=3", "seed=0,1,2", *STOPPING, "+callbacks.stop.signal=SIGTERM")
    first = application(tmp_path, *command, "hydra.sweep.dir=sweep", before=import_from_here)
    assert first.status == 143
    assert "the same command with hydra.sweep.dir=sweep goes on with its unfinished jobs" in first.stderr
    assert not (tmp_path / "sweep" / "2").exists()
    second = application(tmp_path, *command, "hydra.sweep.dir=sweep", before=import_from_here)
    assert second.status == 0, second.text
    assert "0 holds the result of this job already: skipped" in second.stdout
    for seed in range(3):
        alone = tmp_path / f"alone{seed}"
        alone.mkdir()
        run(configuration("epochs=3", f"seed={seed}"), alone)
        assert same(outcome(tmp_path / "sweep" / str(seed)), outcome(alone)), seed


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
    with pytest.raises(ValueError, match=r"was not saved by a run of reflow-lightning: pass ckpt="):
        run(configuration(f"ckpt_path={weights}"), tmp_path)


def test_a_run_that_began_from_a_named_checkpoint_goes_on_from_its_own(tmp_path):
    stopped(configuration("epochs=2"), tmp_path, 2)
    begun, named = tmp_path / "begun", f"ckpt_path={tmp_path / 'checkpoints' / 'fit' / 'last.ckpt'}"
    begun.mkdir()
    stopped(configuration("epochs=2", named), begun, 3)
    steps = torch.load(begun / "checkpoints" / "fit" / "last.ckpt", weights_only=True)["global_step"]
    assert steps == 5
    stopped(configuration("epochs=2", named, "resume=true"), begun, 2)
    steps = torch.load(begun / "checkpoints" / "fit" / "last.ckpt", weights_only=True)["global_step"]
    assert steps == 7


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
    with pytest.raises(ValueError, match=r"checkpoint\.every_minutes=0 must be positive"):
        run(configuration("checkpoint.every_minutes=0"), tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint\.every_n_epochs=0 must be at least 1"):
        run(configuration("checkpoint.every_n_epochs=0"), tmp_path)


def test_differences_are_told_by_key():
    assert differences({"a": 1}, {"a": 1}) == ""
    assert differences({"a": 1, "b": 2}, {"a": 3}) == "a=1, now 3; b=2, now not there"
