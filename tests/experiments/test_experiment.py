"""An experiment from a checkpoint, without training, with a dense training of its own, and on under the mask."""

import json

import pytest
import torch
from helpers import zeros
from hydra import compose, initialize_config_module

from reflow_lightning.experiments.classifier import Classifier
from reflow_lightning.experiments.data.digits import DigitsDataModule
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.experiments.results import objective

SMALL = ("model.blocks=1", "reflow.calibration_batches=3", "title=test", "sparsity=0.8")
PRETRAIN = (
    "+optimizer@pretrain.optimizer=sgd",
    "+scheduler@pretrain.scheduler=cosine",
    "+pretrain.total_epochs=2",
    "+pretrain.batch_size=32",
)


def configuration(*overrides):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose("config", overrides=[*SMALL, *overrides])


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(1)
    net = ResNet(1, in_channels=1)
    path = tmp_path / "dense.th"
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, path)
    return path


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_without_training_it_tests_dense_pruned_and_repaired_and_leaves_the_kept_weights_alone(checkpoint, tmp_path):
    report = run(configuration(f"ckpt={checkpoint}", "train=false", "repair=batchnorm"), tmp_path)
    assert list(report["stages"]) == ["dense", "pruned", "repaired"]
    assert {details["step"] for details in report["stages"].values()} == {0}
    before, after = weights(checkpoint), weights(tmp_path / "pruned.ckpt")
    for name in (name for name in before if name.endswith("weight")):
        old, new = before[name], after[f"net.{name.removeprefix('module.')}"]
        assert torch.equal(new, torch.where(new == 0, 0, old))
    moved = [name for name in after if name.endswith("running_var")]
    assert all(not torch.equal(before[f"module.{name.removeprefix('net.')}"], after[name]) for name in moved)


def test_with_training_it_goes_on_under_the_mask(checkpoint, tmp_path):
    report = run(configuration(f"ckpt={checkpoint}", "epochs=0", "finetune_epochs=2"), tmp_path)
    assert list(report["stages"]) == ["dense", "pruned", "repaired", "final"]
    assert report["stages"]["repaired"]["step"] == 0
    assert report["stages"]["final"]["step"] in (20, 40)  # after one epoch or two
    net = ResNet(1, in_channels=1)
    net.load_state_dict({name.removeprefix("net."): v for name, v in weights(tmp_path / "pruned.ckpt").items()})
    total = sum(p.numel() for name, p in net.named_parameters() if p.ndim > 1)
    assert zeros(net) == round(0.8 * total)
    assert report["stages"]["final"]["sparsity"] == zeros(net) / total


def test_epochs_come_before_the_pruning_and_finetune_epochs_after(tmp_path):
    report = run(configuration("epochs=2", "finetune_epochs=1"), tmp_path)
    assert report["stages"]["dense"]["step"] == 40
    assert report["stages"]["final"]["step"] == 60


def test_a_dense_training_of_its_own_comes_first_and_is_kept(tmp_path):
    cfg = configuration("epochs=0", "finetune_epochs=1", *PRETRAIN)
    first = run(cfg, tmp_path)
    dense = weights(tmp_path / "dense.ckpt")
    assert first["dense"] > 0.3  # chance is 0.1
    assert (tmp_path / "tensorboard" / "pretrain").is_dir()
    (tmp_path / "again").mkdir()
    spared = configuration("epochs=0", "finetune_epochs=1", *PRETRAIN, f"ckpt={tmp_path / 'dense.ckpt'}")
    second = run(spared, tmp_path / "again")
    assert second["dense"] == first["dense"]
    assert not (tmp_path / "again" / "dense.ckpt").exists()
    assert {name.split(".")[0] for name in dense} == {"net"}


def test_the_best_epoch_is_chosen_on_validation_data(checkpoint, tmp_path):
    """With a rate that destroys the network in the second epoch, the first is what is tested and saved."""
    destroy = ("scheduler=step", "scheduler.step_size=1", "scheduler.gamma=1000", "optimizer.lr=0.05")
    report = run(configuration(f"ckpt={checkpoint}", "epochs=0", "finetune_epochs=2", *destroy), tmp_path)
    assert report["stages"]["final"]["step"] == 20
    assert report["final"] > 0.3


def test_a_gradual_schedule_chooses_among_fully_pruned_epochs(tmp_path):
    cfg = configuration("epochs=4", "schedule=gradual", "schedule.end=0.5", "schedule.every_n_epochs=1")
    report = run(cfg, tmp_path)
    assert report["stages"]["final"]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert report["stages"]["final"]["step"] >= 60


def test_without_anything_that_was_trained_it_says_what_to_pass(tmp_path):
    with pytest.raises(ValueError, match=r"train=false needs a network that is trained: pass ckpt=PATH"):
        run(configuration("train=false"), tmp_path)


def test_the_report_holds_costs_published_numbers_and_versions(checkpoint, tmp_path):
    cfg = configuration(f"ckpt={checkpoint}", "train=false", "+published={dense: 0.9}", "+paper=arXiv 0000.00000")
    run(cfg, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["published"] == {"dense": 0.9}
    assert report["paper"] == "arXiv 0000.00000"
    assert {"torch", "lightning", "python", "device"} <= set(report["environment"])
    cost = report["cost"]
    assert cost["nonzero"] < cost["parameters"]
    assert sum(layer["multiply_adds"] for layer in cost["layers"]) == cost["multiply_adds"]
    weight = sum(layer["weights"] for layer in cost["layers"])
    kept = sum(layer["nonzero"] for layer in cost["layers"])
    assert 1 - kept / weight == pytest.approx(report["sparsity"])


def test_a_sweeper_is_told_the_validation_metric_never_the_test_metric(checkpoint, tmp_path, monkeypatch):
    cfg = configuration(f"ckpt={checkpoint}", "train=false")
    report = run(cfg, tmp_path)
    assert objective(report) == report["validation"]
    monkeypatch.setattr(DigitsDataModule, "test_dataloader", lambda self: self._loader("train", 64))
    other = run(cfg, tmp_path)
    assert other["repaired"] != report["repaired"]
    assert objective(other) == objective(report)


def test_with_mode_min_the_lowest_validation_loss_is_chosen(checkpoint, tmp_path):
    destroy = ("scheduler=step", "scheduler.step_size=1", "scheduler.gamma=1000", "optimizer.lr=0.05")
    cfg = configuration(f"ckpt={checkpoint}", "epochs=0", "finetune_epochs=2", "monitor=val/loss", "mode=min", *destroy)
    assert run(cfg, tmp_path)["stages"]["final"]["step"] == 20


@pytest.mark.parametrize("limit", ["1", "0.5", "null"])
def test_a_test_on_a_part_of_the_data_says_so_under_the_table(limit, checkpoint, tmp_path, capsys):
    overrides = (f"ckpt={checkpoint}", "train=false", f"trainer.limit_test_batches={limit}")
    tested = run(configuration(*overrides), tmp_path)["tested"]
    assert (tested["batches"] < tested["of"]) == (limit != "null")
    told = f"tested on {tested['batches']} of {tested['of']} batches alone"
    assert (told in capsys.readouterr().out) == (limit != "null")


class Mappings(DigitsDataModule):
    """Digits in mappings, of which no one knows how to take the first sample, and which are freed after each use."""

    def setup(self, stage):
        super().setup(stage)
        self.splits = {k: [{"pixels": x, "class": y} for x, y in split] for k, split in self.splits.items()}

    def teardown(self, stage):
        self.splits = None


class OfMappings(Classifier):
    """Takes them."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch["pixels"], batch["class"]), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch["pixels"], batch["class"]), batch_idx)

    def test_step(self, batch, batch_idx):
        super().test_step((batch["pixels"], batch["class"]), batch_idx)


def test_a_network_whose_cost_can_not_be_counted_has_a_report_all_the_same(tmp_path, capsys):
    own = (f"data._target_={__name__}.Mappings", f"module._target_={__name__}.OfMappings")
    forward = "+reflow.forward={_target_: hydra.utils.get_method, path: experiments.test_experiment.on_pixels}"
    with pytest.warns(UserWarning, match="the cost of the network is not counted"):
        report = run(configuration(*own, forward, "epochs=1", "+paper={name: a, year: 2025}"), tmp_path)
    assert report["cost"] is None
    assert json.loads((tmp_path / "report.json").read_text())["paper"] == {"name": "a", "year": 2025}
    assert "repaired" in capsys.readouterr().out


def on_pixels(model, batch):
    return model(batch["pixels"])


def test_collapse_is_a_switch(tmp_path):
    with pytest.raises(ValueError, match="collapse='maybe' must be true or false"):
        run(configuration("collapse=maybe"), tmp_path)


def test_rounds_that_stop_leave_the_network_that_is_returned_to(tmp_path, capsys):
    rounds = ("schedule=iterative", "schedule.amount=0.9", "schedule.stop_on_drop=0.02", "scheduler=restarts")
    cfg = configuration("epochs=2", "finetune_epochs=4", *rounds, "sparsity=0.995", "repair=none")
    report = run(cfg, tmp_path)
    assert [row["number"] for row in report["rounds"]] == list(range(len(report["rounds"])))
    assert "rounds, by their best validation" in capsys.readouterr().out
    assert not report["rounds"][-1]["kept"]  # a hundredth of the weights does not learn that fast
    returned = [row for row in report["rounds"] if row["kept"]][-1]
    assert report["stages"]["final"]["step"] == returned["step"]
    assert report["sparsity"] == report["stages"]["final"]["sparsity"] == pytest.approx(returned["sparsity"], abs=1e-6)
    assert report["stages"]["repaired"]["sparsity"] > report["sparsity"]
    assert report["validation"] == pytest.approx(returned["value"])
    assert json.loads((tmp_path / "report.json").read_text())["rounds"] == report["rounds"]


def test_rounds_without_a_drop_end_with_the_best_epoch_of_the_last(tmp_path):
    report = run(configuration("epochs=1", "finetune_epochs=3", "schedule=iterative", "schedule.amount=0.6"), tmp_path)
    assert [row["number"] for row in report["rounds"]] == [0, 1, 2]
    assert report["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert report["stages"]["final"]["step"] in (60, 80)
