import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning.signal import measure_entropy
from reflow_lightning.signal.by_hand import rectifiers_by_hand
from reflow_lightning.signal.rectifiers import watching_rectifiers

EXPECTED = {
    "gelu": "gelu",
    "gelu_fast": "gelu",
    "gelu_new": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu",
    "quick_gelu": "gelu",
    "relu": "relu",
    "relu2": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "swish": "silu",
    "leaky_relu": "leaky_relu",
    "hardswish": "hardswish",
}


def heard(activation):
    calls = []
    model = nn.Sequential(nn.Linear(3, 4), activation).eval()
    with torch.no_grad(), watching_rectifiers(model, calls.append):
        model(torch.randn(2, 3))
    return [(call.layer, call.kind) for call in calls]


@pytest.mark.parametrize("name", EXPECTED)
def test_each_rectifier_of_transformers_is_heard_once_under_its_kind(name):
    activations = pytest.importorskip("transformers.activations")
    if name not in activations.ACT2FN:
        pytest.skip(f"this version of transformers has no {name}")
    assert heard(activations.ACT2FN[name]) == [("0", EXPECTED[name])]


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh"])
def test_what_is_no_rectifier_there_is_none_here(name):
    activations = pytest.importorskip("transformers.activations")
    assert heard(activations.ACT2FN[name]) == []


class OfFunction(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return functional.relu(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x.softmax(-1),
        lambda x: x.sort(-1).values.clamp(min=0),  # gives the same for another order, but not in another order
        lambda x: x.flatten(),
        lambda x: x * x.gt(0.5),
        lambda x: (x, x),
        lambda x: x.missing,
    ],
)
def test_what_acts_otherwise_is_none(function):
    assert rectifiers_by_hand(nn.Sequential(OfFunction(function))) == {}


def test_a_module_with_parameters_is_none_and_so_is_one_of_torch():
    model = nn.Sequential(nn.GELU(), nn.PReLU(), nn.Identity(), nn.Linear(2, 2))
    assert rectifiers_by_hand(model) == {}


def test_a_module_does_not_notice_that_it_was_tried():
    model = nn.Sequential(Counting())
    before = torch.get_rng_state()
    assert rectifiers_by_hand(model) == {"0": "relu"}
    assert model[0].calls == 0
    assert model[0].training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rectifier_by_hand_has_the_entropy_of_the_one_that_torch_has():
    torch.manual_seed(0)

    def by_hand(x):
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    layers, batch = [nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)], torch.randn(64, 4)

    def entropy(activation):
        model = nn.Sequential(layers[0], activation(), layers[1], activation(), layers[2])
        return measure_entropy(model, [batch], max_batches=1, progress=False)

    assert entropy(lambda: OfFunction(by_hand)) == entropy(nn.GELU)


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)


def test_what_follows_a_rectifier_that_torch_can_not_see_into_still_has_its_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), OfFunction(Function.apply), nn.Dropout(), nn.ReLU()).eval()
    calls = []
    with torch.no_grad(), watching_rectifiers(model, calls.append):
        model(torch.randn(2, 3))
    assert [(call.layer, call.kind) for call in calls] == [("0", "relu"), ("0", "relu")]
