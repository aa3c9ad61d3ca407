import csv

import pytest
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
