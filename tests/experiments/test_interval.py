"""Intervals of accuracies."""

import pytest
from experiments.test_resume import configuration
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.interval import wilson
from reflow_lightning.experiments.results import print_table


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_that_of_scipy(found):
    right, samples = found
    expected = binomtest(right, samples).proportion_ci(method="wilson")
    assert wilson(right / samples, samples) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_run_reports_and_prints_the_interval_of_each_accuracy_unless_it_tested_a_part(tmp_path, capsys):
    report = run(configuration("epochs=1", "logger=none", "trainer.limit_test_batches=1.0"), tmp_path)
    for details in report["stages"].values():
        low, high = details["interval"]
        assert low <= details["value"] <= high
    assert "95 % interval" in capsys.readouterr().out
    for details in report["stages"].values():
        details["interval"] = None
    print_table(report)
    assert "95 % interval" not in capsys.readouterr().out


def test_notes_below_a_table_are_not_broken(capsys):
    stages = {"dense": {"step": 1, "value": 0.5, "sparsity": 0.0}}
    cost = {"nonzero": 28_200, "parameters": 269_000, "effective": 639_000, "multiply_adds": 2_520_000}
    print_table({"title": "t", "metric": "f1", "stages": stages, "published": {}, "cost": cost, "seconds": {}})
    note = "28.2 k of 269 k parameters are not zero, 639 k of 2.52 M multiply-adds"
    assert note in capsys.readouterr().out.splitlines()
