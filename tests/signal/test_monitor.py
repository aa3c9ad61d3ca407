import csv

import pytest
from helpers import Module, loader, trainer
from lightning.pytorch.loggers import CSVLogger

from reflow_lightning import SignalMonitor


def logged(folder, **how):
    runner = trainer(SignalMonitor(1, **how), logger=CSVLogger(folder, name="", version=""), max_steps=1)
    runner.fit(Module(), loader())
    runner.logger.save()
    with (folder / "metrics.csv").open() as file:
        return {column.partition("/")[0] for row in csv.DictReader(file) for column, value in row.items() if value}


def test_what_needs_no_reference_is_logged(tmp_path):
    expected = {"variance", "dead", "saturated", "entropy", "class_share"}
    assert expected <= logged(tmp_path)


def test_metrics_are_chosen(tmp_path):
    found = logged(tmp_path, metrics=["entropy"])
    assert "entropy" in found
    assert not {"variance", "dead", "saturated", "class_share"} & found


@pytest.mark.parametrize("metrics", ["variance", [], ["cka"], ["name"], ["speed"]])
def test_metrics_that_cannot_be_logged_are_an_error(metrics):
    with pytest.raises(ValueError, match=r"metrics=.* must be a list of some of mean, variance, "):
        SignalMonitor(metrics=metrics)
