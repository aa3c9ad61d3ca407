import sys
import warnings

import pytest
import torch
from helpers import images
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import measure_signal
from reflow_lightning.running.forward import default_forward
from reflow_lightning.signal import measure_entropy, rectifiers
from reflow_lightning.signal.leaving import NothingToMeasureError
from reflow_lightning.signal.measure import Profile


class Changing(nn.Linear):
    """Puts out fewer channels at each call."""

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)[..., : -self.calls]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.odd, self.last = nn.Linear(4, 8), Changing(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.first(x).relu()
        for _ in range(2):
            self.odd(h).relu()
        return self.last(h)


def test_a_layer_that_cannot_be_measured_is_named_once_and_left_out():
    with pytest.warns(UserWarning, match=r"not measured were 'odd': RuntimeError: .*choose what is") as caught:
        report = measure_signal(Net(), [torch.randn(16, 4)] * 2, max_batches=2)
    assert [row.name for row in report.rows] == ["first", "last"]
    assert len(caught) == 1


def test_it_is_named_once_in_all_measurements_of_a_profile():
    profile, net = Profile([torch.randn(16, 4)], default_forward), Net()
    with pytest.warns(UserWarning, match="'odd'"):
        profile.measure(net, "dense")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        profile.measure(net, "pruned")
        profile.measure(net, "repaired")
    assert [row.name for row in profile.reports["repaired"].rows] == ["first", "last"]


def test_a_rectifier_that_cannot_be_counted_is_left_out_too(monkeypatch):
    def fails(values, dim, ceiling):
        raise IndexError(f"no {dim}")

    monkeypatch.setattr(sys.modules["reflow_lightning.signal.layer_entropy"], "neuron_states", fails)
    with pytest.warns(UserWarning, match=r"not measured were '0': IndexError: no 1; '4'"):
        report = measure_signal(small_net(), [images(8)], max_batches=1)
    assert report.rectifiers == ()
    with pytest.warns(UserWarning, match="not measured"), pytest.raises(ValueError, match="reached no rectifier"):
        measure_entropy(small_net(), [images(8)], max_batches=1)


def test_what_cannot_be_followed_does_not_end_the_pass(monkeypatch):
    monkeypatch.setattr(rectifiers, "moved_dim", lambda *_: 1 / 0)
    monkeypatch.setattr(rectifiers.Origin, "moved", lambda *_: 1 / 0)
    report = measure_signal(small_net(), [images(8)], max_batches=1)
    assert len(report.rows) == 3


def test_a_network_without_a_layer_to_measure_says_so():
    for measure in (
        lambda: measure_signal(nn.ReLU(), [torch.ones(1, 2)], max_batches=1),
        lambda: Profile([torch.ones(1, 2)], default_forward).measure(nn.ReLU(), "dense"),
    ):
        with pytest.raises(NothingToMeasureError, match="no layer to measure"):
            measure()
