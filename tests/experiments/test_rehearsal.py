"""What would fail after hours of training is told before it."""

from typing import ClassVar

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch.utils.data import DataLoader

from reflow_lightning.experiments.classifier import Classifier
from reflow_lightning.experiments.data.digits import DigitsDataModule
from reflow_lightning.experiments.experiment import run
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
        "the validation fails with its first batch, before anything was trained: IndexError: Target 10 is out of",
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


def test_it_takes_a_batch_of_each_and_leaves_the_random_state():
    cfg = configuration()
    data, module = instantiate(cfg.data), instantiate(cfg.module)
    reflow = instantiate(cfg.reflow, calibration_data=data)
    Counting.seen.clear()
    before, weights = torch.get_rng_state(), [parameter.clone() for parameter in module.parameters()]
    assert rehearse(cfg, module, data, reflow) == ["val/loss", "val/accuracy"]
    assert Counting.seen == ["val", "test"]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), weights, strict=True))
    assert not any(parameter.is_inference() for parameter in module.parameters())
