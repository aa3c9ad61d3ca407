"""Which layers have curves."""

import csv

import pytest
from helpers import Module, loader, trainer
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, Logger

from reflow_lightning import SignalMonitor
from reflow_lightning.callbacks.curves import check_curves, with_curves


@given(st.integers(0, 60), st.integers(0, 12))
def test_a_number_takes_so_many_layers_with_the_first_and_the_last(layers, number):
    names = [f"layer{i}" for i in range(layers)]
    found = with_curves(names, number)
    assert len(found) == min(layers, number)
    assert found == [name for name in names if name in found]
    if found:
        assert found[-1] == names[-1]
    if len(found) > 1:
        assert found[0] == names[0]


def test_patterns_take_the_layers_that_match():
    assert with_curves(["a.bn", "a.conv", "fc"], ("*.bn", "fc")) == ["a.bn", "fc"]
    assert with_curves(["a.bn", "fc"], check_curves("*")) == ["a.bn", "fc"]


@pytest.mark.parametrize("curves", [-1, True, 2.5, [], [3], None])
def test_what_is_no_choice_is_an_error_that_says_what_is_one(curves):
    with pytest.raises(ValueError, match=r"curves=.* must be a number of layers, or patterns .* '\*' for all"):
        SignalMonitor(curves=curves)


LAYERS = {"net.1", "net.5", "net.9"}


class Charts(Logger):
    """A logger that has a chart for each number."""

    name, version = "charts", "0"

    def __init__(self):
        super().__init__()
        self.logged = set()

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.logged |= set(metrics)


@pytest.mark.parametrize(("curves", "shown"), [(1, {"net.9"}), ("net.1", {"net.1"}), ("*", LAYERS)])
def test_charts_are_few_and_a_file_has_all(tmp_path, curves, shown):
    charts, file = Charts(), CSVLogger(tmp_path, name="", version="")
    monitor = SignalMonitor(1, metrics=["variance"], curves=curves)
    runner = trainer(monitor, logger=[charts, file], max_steps=1)
    runner.fit(Module(), loader())
    file.save()
    assert {name.removeprefix("variance/") for name in charts.logged if name.startswith("variance/")} == shown
    with (tmp_path / "metrics.csv").open() as lines:
        assert {"variance/net.1", "variance/net.5", "variance/net.9"} <= set(csv.DictReader(lines).fieldnames)
