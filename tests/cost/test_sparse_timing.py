import itertools
import time

import pytest
import torch
from torch import nn

from reflow_lightning.cost.sparse_timing import layer_seconds


class Waiting(nn.Module):
    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


def run(model, example):
    return model(example)


def test_each_layer_has_the_time_of_its_own_and_other_layers_do_not_count():
    slow, fast = (nn.Sequential(Waiting(a), Waiting(b)) for a, b in ((0.02, 0.01), (0.005, 0.01)))
    networks = {"slow": slow, "fast": fast}
    seconds = layer_seconds(networks, ["0", "1"], run, torch.ones(1), rounds=3, clock=time.perf_counter)
    assert seconds["slow"] == pytest.approx({"0": 0.02, "1": 0.01}, rel=0.5)
    assert seconds["fast"] == pytest.approx({"0": 0.005, "1": 0.01}, rel=0.5)


def test_the_calls_of_a_pass_are_summed_also_of_a_layer_of_several_names():
    """Each look at the clock moves it by a second; so a call takes one."""
    shared = Waiting()
    model = nn.Sequential(shared, Waiting(), shared, nn.Sequential(shared))
    ticks = itertools.count()
    seconds = layer_seconds({"a": model}, ["0", "1"], run, torch.ones(1), rounds=2, clock=lambda: next(ticks))
    assert seconds == {"a": {"0": 3, "1": 1}}


def test_where_there_is_nothing_to_time_nothing_is_run():
    assert layer_seconds({"a": Waiting(9e9)}, [], run, torch.ones(1), rounds=3) == {"a": {}}


def test_the_networks_are_as_before_and_nobody_watches_them_any_more():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    layer_seconds({"a": model}, ["0"], run, torch.ones(1, 2), rounds=1)
    assert [module.training for module in model.modules()] == [True] * 3
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_so_they_are_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError):
        layer_seconds({"a": model}, ["0"], run, torch.ones(1, 3), rounds=1)
    assert not model[0]._forward_hooks
