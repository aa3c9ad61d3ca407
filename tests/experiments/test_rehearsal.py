"""What would fail after hours of training is told before it."""

from typing import ClassVar

import pytest
import torch
from experiments.test_resume import outcome, same
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch.utils.data import DataLoader

from reflow_lightning.experiments.classifier import Classifier
from reflow_lightning.experiments.data.digits import DigitsDataModule
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.metrics import check_monitor
from reflow_lightning.experiments.rehearsal import rehearse
from reflow_lightning.experiments.search import search

PRETRAIN = ("+optimizer@pretrain.optimizer=sgd", "+scheduler@pretrain.scheduler=cosine", "+pretrain.total_epochs=2")


class Unlabelled(DigitsDataModule):
    """Digits whose test set has no labels, as that of a competition."""

    def test_dataloader(self):
        return DataLoader([image for image, _ in self.splits["test"]], self.batch_size)


class MoreClasses(DigitsDataModule):
    """Digits with one class more than the network knows."""

    def val_dataloader(self):
        return DataLoader([(image, 10) for image, _ in self.splits["val"]], self.batch_size)


class Counting(Classifier):
    """Notes each batch that it sees, and logs a metric in training and one more, by epoch, in validation."""

    seen: ClassVar[list] = []

    def training_step(self, batch, batch_idx):
        self.seen.append("train")
        loss = super().training_step(batch, batch_idx)
        self.log("train/own", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.seen.append("val")
        torch.rand(3)
        super().validation_step(batch, batch_idx)

    def test_step(self, batch, batch_idx):
        self.seen.append("test")
        super().test_step(batch, batch_idx)


def configuration(*overrides, config="config"):
    small = ("model.blocks=1", "model.width=4", "epochs=1", "reflow.calibration_batches=1", "title=test")
    limits = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=3")
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        counting = f"module._target_={__name__}.Counting"
        return compose(config, overrides=[*small, *limits, counting, *overrides])


FAULTS = {
    "metric": (("metric=f1",), "metric=f1 is not among what the test logs: loss, accuracy"),
    "monitor": (("monitor=val/acc",), "monitor=val/acc is not among what the validation logs: val/loss, val/accuracy"),
    "monitor of a callback": (
        ("callbacks=early_stopping", "callbacks.early_stopping.monitor=val/f1"),
        "callbacks.early_stopping.monitor=val/f1 is not among what the validation logs",
    ),
    "monitor of rounds": (
        ("schedule=iterative", "schedule.stop_on_drop=0.1", "schedule.monitor=val/f1", "finetune_epochs=2"),
        "schedule.monitor=val/f1 is not among what the validation logs",
    ),
    "labels": (
        (f"data._target_={__name__}.Unlabelled",),
        "the test fails with its first batch, before anything was trained: ValueError: a batch is a Tensor, and must "
        r"be \(inputs, class indices\): give data with labels",
    ),
    "classes": (
        (f"data._target_={__name__}.MoreClasses",),
        "the validation fails with its first batch, before anything was trained: ValueError: there is a label 10, but "
        "num_classes=10 has 0 to 9: give num_classes=11, or correct the labels",
    ),
    "shape": (("model.in_channels=3",), "the validation fails with its first batch.*3 channels"),
    "no test": (("trainer.limit_test_batches=0",), "the test has no batch"),
    "pruning": (("sparsity=1.5",), "sparsity=1.5"),
}


@pytest.mark.parametrize(("overrides", "message"), [pytest.param(*case, id=name) for name, case in FAULTS.items()])
@pytest.mark.parametrize("way", ["run", "pretrained"])
def test_a_fault_is_told_before_anything_is_trained(overrides, message, way, tmp_path):
    Counting.seen.clear()
    with pytest.raises(Exception, match=message):
        run(configuration(*overrides, *(PRETRAIN if way == "pretrained" else ())), tmp_path)
    assert "train" not in Counting.seen


@pytest.mark.parametrize("overrides", [("max_drop=-1",), ("tolerance=2",), ("metric=f1",)])
def test_so_it_is_in_a_search(overrides, tmp_path):
    Counting.seen.clear()
    with pytest.raises(ValueError, match=overrides[0].split("=")[0]):
        search(configuration(*overrides, config="search"), tmp_path)
    assert "train" not in Counting.seen


def test_a_metric_of_the_training_may_be_watched(tmp_path):
    run(configuration("monitor=train/own", "mode=min"), tmp_path)


class Remembering(Counting):
    """Trains otherwise once it was validated, validates by what the training left, and logs in several ways."""

    def __init__(self, **options):
        super().__init__(**options)
        self.history = []
        self.register_buffer("validations", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (0.5 if self.history or self.validations else 1.0)

    def validation_step(self, batch, batch_idx):
        self.history.append(batch_idx)
        self.validations += 1
        super().validation_step(batch, batch_idx)


class NeedsATraining(Counting):
    """Validates by what the training has gathered."""

    def on_train_start(self):
        self.center = 0.0

    def validation_step(self, batch, batch_idx):
        assert self.center is not None
        super().validation_step(batch, batch_idx)


class Drawing(DigitsDataModule):
    """Draws the order of the training data from a generator of its own, which the validation uses, too."""

    def __init__(self, **options):
        super().__init__(**options)
        self.draws = torch.Generator().manual_seed(1)

    def train_dataloader(self):
        return DataLoader(self.splits["train"], self.batch_size, shuffle=True, generator=self.draws)

    def val_dataloader(self):
        return DataLoader(self.splits["val"], self.batch_size, shuffle=True, generator=self.draws)


@pytest.mark.parametrize("own", [f"module._target_={__name__}.Remembering", f"data._target_={__name__}.Drawing"])
def test_a_run_comes_to_the_same_with_and_without_it(own, tmp_path):
    reports = []
    for name in ("true", "false"):
        folder = tmp_path / name
        folder.mkdir()
        run(configuration(own, "epochs=2", f"rehearse={name}"), folder)
        reports.append(outcome(folder))
    assert same(*reports)


def test_a_validation_that_needs_a_training_first_is_not_tried_if_so_wished(tmp_path):
    own = f"module._target_={__name__}.NeedsATraining"
    with pytest.raises(ValueError, match=r"no attribute 'center' \(rehearse=false does not try it"):
        run(configuration(own), tmp_path)
    run(configuration(own, "rehearse=false"), tmp_path)


class Logging(Counting):
    """Logs its metric at each step, too, and to no logger."""

    def validation_step(self, batch, batch_idx):
        self.log("val/mine", batch[0].mean(), on_step=True, on_epoch=True)
        super().validation_step(batch, batch_idx)

    def test_step(self, batch, batch_idx):
        self.log("test/mine", batch[0].mean(), logger=False, prog_bar=True)
        super().test_step(batch, batch_idx)


def test_a_metric_counts_however_it_is_logged(tmp_path):
    report = run(configuration(f"module._target_={__name__}.Logging", "metric=mine"), tmp_path)
    assert report["validation"] is not None
    assert report["dense"] == report["repaired"] != 0


@pytest.mark.parametrize("monitor", ["step", "sparsity/global", "loss", "lr-SGD"])
def test_nothing_is_said_of_monitors_that_trainings_and_callbacks_log(monitor):
    check_monitor("monitor", monitor, ["val/loss", "val/accuracy"])


def test_it_takes_a_batch_of_each_and_leaves_the_random_state():
    cfg = configuration()
    data, module = instantiate(cfg.data), instantiate(cfg.module)
    reflow = instantiate(cfg.reflow, calibration_data=data)
    Counting.seen.clear()
    before, weights = torch.get_rng_state(), [parameter.clone() for parameter in module.parameters()]
    assert list(rehearse(cfg, module, data, reflow)) == ["val/loss", "val/accuracy"]
    assert Counting.seen == ["val", "test"]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), weights, strict=True))
    assert not any(parameter.is_inference() for parameter in module.parameters())
