import pytest

from reflow_lightning.pruning.floors import least_kept


def test_minimum_threshold_keeps_small_layers_whole():
    assert least_kept(1000, {"conv": 3, "fc": 997}, min_kept=0.01, keep=100) == {"conv": 3, "fc": 10}


def test_a_floor_that_does_not_fit_names_the_largest_that_does():
    with pytest.raises(ValueError, match=r"min_kept=0.1 asks for 200 weights.*leaves only 100: use min_kept <= 0.05"):
        least_kept(1000, {"a": 500, "b": 500}, min_kept=0.1, keep=100)
    assert least_kept(1000, {"a": 500, "b": 500}, min_kept=0.05, keep=100) == {"a": 50, "b": 50}
