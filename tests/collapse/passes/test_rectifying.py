import math

import pytest
import torch
from scenarios.wrecked import same
from torch import nn
from torch.nn import functional
from zoo.odd import Forward

from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.graph.tracing import trace
from reflow_lightning.collapse.passes.rectifying import straighten


def between(low, high, shape=(4,)):
    """A layer that puts out values between these, and anything in there for some input."""
    layer = nn.Hardtanh(low, high)
    return layer, torch.linspace(low - 1, high + 1, 4 * math.prod(shape)).view(-1, *shape)


def straightened(model, given, observed=False):
    """What was replaced, what was not, and the network after it, which does the same."""
    analysis = Analysis(trace(model.eval()), [(given,)], observed)
    done, left = straighten(analysis.steps, analysis.bounds, analysis.dims, "found")
    assert same(model, analysis.traced, (given,)) < 1e-6
    return done, left, [type(m).__name__ for m in analysis.traced.modules() if not list(m.children())]


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (nn.ReLU(), 0.0, 3.0),
        (nn.ReLU(inplace=True), 1.0, 2.0),
        (nn.ReLU6(), 0.5, 6.0),
        (nn.LeakyReLU(), 0.0, 2.0),
        (nn.PReLU(), 0.0, 2.0),
        (nn.Hardtanh(-3, 3), -2.0, 2.0),
        (nn.GELU(), 7.0, 9.0),
        (nn.SiLU(), 23.0, 30.0),
    ],
)
def test_what_is_always_on_becomes_the_identity(function, low, high):
    bounded, given = between(low, high)
    done, left, layers = straightened(nn.Sequential(bounded, function), given)
    assert [row.why for row in done] == ["always on (found): replaced by the identity"]
    assert left == []
    assert layers == ["Hardtanh"]


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (nn.ReLU(), -0.1, 3.0),
        (nn.ReLU6(), 0.0, 6.1),
        (nn.LeakyReLU(), -0.1, 2.0),
        (nn.GELU(), 5.0, 9.0),
        (nn.SiLU(), 10.0, 30.0),
        (nn.Tanh(), -1e-3, 1e-3),
    ],
)
def test_what_is_not_straight_stays(function, low, high):
    bounded, given = between(low, high)
    done, left, layers = straightened(nn.Sequential(bounded, function), given)
    assert (done, left, len(layers)) == ([], [], 2)


@pytest.mark.parametrize(
    "function", [torch.relu, functional.relu6, lambda x: functional.leaky_relu(x, negative_slope=0.2)]
)
def test_functions_count_like_modules(function):
    bounded, given = between(0.5, 3.0)
    done, _, _ = straightened(Forward(lambda m, x: function(m.bounded(x)), bounded=bounded), given)
    assert len(done) == 1


class Into(nn.Module):
    """A convolution or linear layer, whose output lies between bounds of its own for each channel."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function
        self.bounded = nn.Hardtanh(-1, 1)

    def forward(self, x):
        return self.function(self.layer(self.bounded(x)))


@torch.no_grad()
def shifted(layer, shifts):
    layer.weight.copy_(layer.weight / layer.weight.flatten(1).abs().sum(1).view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.copy_(torch.tensor(shifts))
    return layer


@pytest.mark.parametrize(
    ("function", "shifts"),
    [
        (nn.LeakyReLU(0.2), [-2.0, 2.0, -3.0]),
        (nn.ReLU(), [-2.0, 2.0, 3.0]),
        (nn.ReLU6(), [8.0, 2.0, -2.0]),
        (nn.PReLU(3), [-2.0, 2.0, -1.5]),
        (nn.GELU(), [-9.0, 9.0, 9.0]),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv1d(4, 3, 2), nn.Conv2d(4, 3, 2)])
def test_straight_lines_of_other_slopes_are_folded_into_the_layer_before(layer, function, shifts):
    torch.manual_seed(0)
    shape = (5, 4) if isinstance(layer, nn.Linear) else (5, 4, *[3] * (layer.weight.ndim - 2))
    nn.init.normal_(layer.weight)
    if isinstance(function, nn.PReLU):
        nn.init.uniform_(function.weight, 0.1, 0.9)
    done, left, layers = straightened(Into(shifted(layer, shifts), function), torch.randn(shape) * 2)
    assert [row.why for row in done] == ["a straight line in each channel (found): folded into layer"]
    assert left == []
    assert sorted(layers) == sorted([type(layer).__name__, "Hardtanh"])


def test_a_line_is_folded_into_batchnorm_too():
    def run(m, x):
        return m.function(m.norm(m.bounded(x)))

    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([5.0, -7.0]))
    model = Forward(run, bounded=nn.Hardtanh(), norm=norm, function=nn.LeakyReLU(0.3))
    done, _, _ = straightened(model, torch.randn(2, 2, 3, 3))
    assert len(done) == 1


def test_one_line_after_the_other_is_folded():
    layer = shifted(nn.Linear(4, 3), [-2.0, 2.0, -3.0])
    function = nn.Sequential(nn.LeakyReLU(-0.3), nn.LeakyReLU(-0.5), nn.ReLU())
    done, _, _ = straightened(Into(layer, function), torch.randn(5, 4))
    assert len(done) == 3


def test_a_line_stays_if_others_read_what_goes_in():
    layer = shifted(nn.Linear(4, 3), [-2.0, 2.0, -3.0])
    done, left, _ = straightened(Into(layer, lambda x: functional.leaky_relu(x) + x), torch.randn(5, 4))
    assert done == []
    assert left[0].why.endswith("but its input is also used elsewhere")


def test_a_line_stays_after_a_sum():
    layer = shifted(nn.Linear(4, 3), [-2.0, 2.0, -3.0])
    done, left, _ = straightened(Into(layer, lambda x: functional.leaky_relu(x + 0.5)), torch.randn(5, 4))
    assert done == []
    assert left[0].why.endswith("but its input comes from add")


def test_the_channels_of_a_linear_layer_are_the_last_dimension_whatever_reads_them():
    layer = shifted(nn.Linear(4, 3), [-2.0, 2.0, -3.0])
    done, _, _ = straightened(Into(layer, lambda x: functional.leaky_relu(x).softmax(1)), torch.randn(2, 3, 3, 4))
    assert len(done) == 1


def test_a_rectifier_that_was_always_on_when_observed_counts_only_if_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].bias.fill_(50.0)
    given = torch.randn(64, 4)
    assert straightened(model, given)[0] == []
    assert len(straightened(model, given, observed=True)[0]) == 1
