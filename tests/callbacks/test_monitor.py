import csv

import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, loader, trainer
from lightning.pytorch.loggers import CSVLogger

from reflow_lightning import SignalMonitor


def curves(folder, **how):
    runner = trainer(SignalMonitor(1, **how), logger=CSVLogger(folder, name="", version=""), max_steps=1)
    runner.fit(Module(), loader())
    runner.logger.save()
    with (folder / "metrics.csv").open() as file:
        return {column: float(value) for row in csv.DictReader(file) for column, value in row.items() if value}


def logged(folder, **how):
    return {curve.partition("/")[0] for curve in curves(folder, **how)}


def test_what_needs_no_reference_is_logged(tmp_path):
    expected = {"variance", "dead", "saturated", "entropy", "class_share", "rectifier_entropy", "rectifier_saturated"}
    assert expected <= logged(tmp_path)


def test_rectifiers_are_logged_by_the_layer_before_them(tmp_path):
    found = curves(tmp_path, layers="net.9")
    assert {"variance/net.9", "rectifier_entropy/net.0", "rectifier_entropy/net.4"} <= set(found)
    assert "rectifier_entropy/net.9" not in found
    assert 0 < found["rectifier_entropy/net.0"] <= 1
    assert 0 <= found["rectifier_saturated/net.0"] <= 1


def test_metrics_are_chosen(tmp_path):
    found = logged(tmp_path, metrics=["entropy"])
    assert "entropy" in found
    assert not {"variance", "dead", "saturated", "class_share", "rectifier_entropy"} & found


def test_rectifiers_may_be_all_that_is_logged(tmp_path):
    assert {f for f in logged(tmp_path, metrics=["rectifier_saturated"]) if "rectifier" in f} == {"rectifier_saturated"}


@pytest.mark.parametrize("metrics", ["variance", [], ["cka"], ["name"], ["speed"]])
def test_metrics_that_cannot_be_logged_are_an_error(metrics):
    with pytest.raises(ValueError, match=r"metrics=.* must be a list of some of mean, variance, "):
        SignalMonitor(metrics=metrics)


class WithoutForward(Module):
    """Its steps call the network itself, as many modules do."""

    forward = pl.LightningModule.forward

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])


def test_a_module_without_forward_is_measured_by_its_step(tmp_path):
    runner = trainer(SignalMonitor(1), logger=CSVLogger(tmp_path, name="", version=""), max_steps=2)
    with pytest.warns(UserWarning, match="the default forward fails on batches of this training"):
        runner.fit(WithoutForward(), loader())
    runner.logger.save()
    assert "variance/net.9" in (tmp_path / "metrics.csv").read_text()


def test_the_batch_is_measured_as_it_was_before_it_was_trained_on(tmp_path):
    class Divides(Module):
        def training_step(self, batch, batch_idx):
            loss = super().training_step([part.clone() for part in batch], batch_idx)
            batch[0].zero_()
            return loss

    found = []
    for kind in (Module, Divides):
        seen = []
        forward = lambda module, batch, seen=seen: (seen.append(batch[0].clone()), batch[0].neg_(), module(batch[0]))  # noqa: E731
        runner = trainer(SignalMonitor(2, forward=forward), logger=CSVLogger(tmp_path, name=kind.__name__), max_steps=3)
        runner.fit(kind(), loader(shuffle=False))
        found.append(seen)
    assert len(found[0]) == 3  # the first twice, to learn the order
    assert all(bool(a.any()) and bool((a == b).all()) for a, b in zip(*found, strict=True))


def trained(monitor, forward_fails_at=None):
    module, calls = Module(), []

    def forward(model, batch):
        calls.append(1)
        if len(calls) == forward_fails_at:
            raise RuntimeError("an odd batch")
        return model(batch[0])

    monitor.forward = forward
    trainer(monitor, logger=CSVLogger("unused", name="", version=""), max_steps=4).fit(module, loader())
    return module


def test_the_first_pass_that_fails_is_an_error_and_a_later_one_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="an odd batch"):
        trained(SignalMonitor(1), forward_fails_at=1)
    with pytest.warns(UserWarning, match="could not measure at step 1.*an odd batch.*pass forward=") as caught:
        module = trained(SignalMonitor(1), forward_fails_at=3)
    assert sum("could not measure" in str(warning.message) for warning in caught) == 1
    assert module.trainer.global_step == 4


def test_a_network_in_which_nothing_can_be_measured_is_trained_all_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reflow_lightning.signal.measurement.read", lambda values: 1 / 0)
    with pytest.warns(UserWarning, match="measures nothing in this training") as caught:
        module = trained(SignalMonitor(1))
    texts = [str(warning.message) for warning in caught]
    assert sum("measures nothing" in text for text in texts) == sum("not measured were" in text for text in texts) == 1
    assert module.trainer.global_step == 4
