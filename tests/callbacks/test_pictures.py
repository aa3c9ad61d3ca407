"""A picture that can't be drawn ends no training."""

import math

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from reflow_lightning.callbacks.pictures import log_picture
from reflow_lightning.callbacks.state_runs import weakest_ratio
from reflow_lightning.signal import LayerSignal, SignalReport, plot_profiles


def report(*variances):
    return SignalReport(tuple(LayerSignal(f"{n}", 8, 0.0, v, v, 0.0) for n, v in enumerate(variances)), batches=1)


def test_a_failure_is_told_and_passed_over(tmp_path):
    def draw():
        raise OSError("no space left")

    with pytest.warns(UserWarning, match=r"the picture activations/by_layer of step 3 was left out .*no space left"):
        log_picture([TensorBoardLogger(tmp_path)], "activations/by_layer", draw, 3, 4)


def test_a_network_without_a_finite_variance_is_drawn_all_the_same():
    axes = plot_profiles({"dense": report(math.nan, math.inf)}).axes[0]
    assert axes.get_yscale() == "log"


def test_a_layer_without_a_finite_variance_is_not_called_healthy():
    assert math.isnan(weakest_ratio(report(1.0, math.nan), report(1.0, 1.0)))
    assert math.isnan(weakest_ratio(report(math.inf, 1.0), report(1.0, 1.0)))
    assert weakest_ratio(report(1.0, 0.5), report(1.0, 2.0)) == 0.25
