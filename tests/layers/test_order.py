import pytest
import torch
from scenarios.thinned import plain
from torch import nn
from zoo.residual import Preactivation

from reflow_lightning.layers.order import forward_order


def order_of(model, *names, batch=None):
    x = torch.randn(2, 3) if batch is None else batch
    with torch.no_grad():
        return forward_order(model.eval(), names, [x, None], plain)


class Backwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.first, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.first(self.first(x)))


def test_layers_come_in_the_order_in_which_they_are_reached_with_their_calls():
    found = order_of(Backwards(), "last", "first", "unused")
    assert list(found.calls.items()) == [("first", 2), ("last", 1)]


def test_only_the_first_batch_is_read():
    order_of(Backwards(), "last")  # the second is None


def test_no_batch_gives_nothing():
    assert forward_order(Backwards(), ["last"], [], plain).calls == {}


def test_a_batchnorm_that_gets_the_output_of_a_layer_follows_it_wherever_it_is_defined():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(3), nn.Linear(3, 3)

        def forward(self, x):
            return self.norm(input=self.fc(x))

    assert order_of(Network(), "fc").followers == {"fc": "norm"}


def test_a_batchnorm_after_an_addition_follows_no_layer_but_the_stem():
    model = Preactivation()
    found = order_of(model, "stem", "conv1", "conv2", "head", batch=torch.randn(2, 3, 6, 6))
    assert found.followers == {"stem": "norm1"}


@pytest.mark.parametrize("inplace", [True, False])
def test_a_batchnorm_after_an_activation_follows_no_layer_even_if_that_writes_in_place(inplace):
    assert order_of(nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace), nn.BatchNorm1d(3)), "0").followers == {}


class Called(nn.Module):
    """Two layers and two BatchNorm layers, in any order of calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls
        self.a, self.b, self.norm, self.other = (nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3))

    def forward(self, x):
        for name in self.calls.split():
            x = getattr(self, name)(x)
        return x


@pytest.mark.parametrize(
    ("calls", "followers"),
    [
        ("a norm b other", {"a": "norm", "b": "other"}),
        ("a norm a norm", {"a": "norm"}),
        ("a norm b norm", {}),  # one set of statistics for the outputs of both
        ("a norm a other", {}),
        ("a norm a", {}),
        ("a norm other", {"a": "norm"}),
        ("a a norm", {}),
    ],
)
def test_the_statistics_of_a_follower_are_those_of_all_outputs_of_one_layer_alone(calls, followers):
    assert order_of(Called(calls), "a", "b").followers == followers
