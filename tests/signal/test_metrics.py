import copy

import pytest
import torch
from helpers import images
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import measure_signal, prune
from reflow_lightning.running.compat.torch import FunctionMode
from reflow_lightning.signal.metrics import METRICS, check_metrics, gathered_for

BATCHES = [(x, torch.arange(16) % 3) for x in images(64).split(16)]


class Counting(nn.Module):
    """Counts its forward passes where no snapshot puts them back."""

    def __init__(self, passes):
        super().__init__()
        self.net, self.forward = small_net(), self.count
        self.passes = lambda: passes.append(1)

    def count(self, x):
        self.passes()
        return self.net(x)


@pytest.fixture
def modes(monkeypatch):
    entered = []
    enter = FunctionMode.__enter__
    monkeypatch.setattr(FunctionMode, "__enter__", lambda mode: (entered.append(type(mode).__name__), enter(mode))[1])
    return entered


@pytest.mark.parametrize(
    ("metrics", "watches"),
    [
        (("variance",), set()),
        (("variance", "variance_ratio", "entropy", "class_share"), set()),
        (("cosine",), {"RowsWatch"}),
        (("cka",), {"RowsWatch"}),
        (("rectifier_entropy",), {"_Watch"}),
        (METRICS, {"RowsWatch", "_Watch"}),
    ],
)
def test_no_operation_is_watched_for_what_nobody_asks_for(metrics, watches, modes):
    model = small_net()
    measure_signal(model, BATCHES, reference=copy.deepcopy(model), max_batches=4, metrics=metrics)
    first_passes = modes.count("_Products")  # which find linear layers that functions use
    assert first_passes <= 2
    assert set(modes) - {"_Products"} == watches


def test_each_network_runs_once_a_batch_and_the_reference_only_if_it_is_compared_with():
    ours, dense = [], []
    model, reference = Counting(ours), Counting(dense)
    measure_signal(model, BATCHES, reference=reference, max_batches=4)
    assert (len(ours), len(dense)) == (4, 4)
    measure_signal(model, BATCHES, reference=reference, max_batches=4, metrics=["variance"])
    assert (len(ours), len(dense)) == (8, 4)


@pytest.mark.parametrize("number", [1, 4])
def test_hooks_are_put_on_once_for_all_batches(number, monkeypatch):
    put_on = []
    register = nn.Module.register_forward_hook
    monkeypatch.setattr(nn.Module, "register_forward_hook", lambda *a, **k: (put_on.append(1), register(*a, **k))[1])
    measure_signal(small_net(), BATCHES, max_batches=number, metrics=["variance"])
    assert len(put_on) == 10  # five layers, to measure and to learn their order


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_alone_has_the_value_that_it_has_among_all(metric):
    model = small_net()
    dense = copy.deepcopy(model)
    prune(model, 0.6)
    every = measure_signal(model, BATCHES, reference=dense, max_batches=4)
    alone = measure_signal(model, BATCHES, reference=dense, max_batches=4, metrics=[metric])
    if metric.startswith("rectifier"):
        assert alone.rectifiers == every.rectifiers
    else:
        assert [getattr(row, metric) for row in alone.rows] == [getattr(row, metric) for row in every.rows]
        assert alone.rectifiers == ()
    assert (alone.rows[0].entropy is None) == ("signs" not in gathered_for([metric]))
    assert (alone.rows[0].cka is None) == (metric != "cka")


@pytest.mark.parametrize("metrics", ["variance", [], ["name"], [1], None])
def test_what_is_no_list_of_metrics_is_an_error_that_names_them(metrics):
    with pytest.raises(ValueError, match=r"metrics=.* must be a list of some of mean, variance, .*rectifier_saturated"):
        measure_signal(small_net(), BATCHES, metrics=metrics)


def test_a_metric_that_compares_needs_a_reference():
    with pytest.raises(ValueError, match=r"metrics=\('cka',\) compare with the dense network: pass reference="):
        measure_signal(small_net(), BATCHES, metrics=["cka"])


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(ValueError, match="nearest: entropy"):
        check_metrics(["entropie"])
