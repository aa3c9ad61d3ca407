import pytest
import torch
from scenarios.wrecked import same
from torch import nn
from zoo.odd import Forward

from reflow_lightning.collapse import collapse


def powers(power):
    torch.manual_seed(0)
    model = Forward(lambda m, x: m.head(power(m.body(x))), body=nn.Linear(4, 6), head=nn.Linear(6, 2))
    with torch.no_grad():
        model.body.weight[:4] = 0
        model.body.bias[:2] = torch.tensor([-2.0, 2.0])
    return model


@pytest.mark.parametrize(
    "power", [lambda x: x**2, lambda x: x.pow(3.0), lambda x: torch.pow(x, 4), lambda x: torch.pow(x, exponent=3)]
)
def test_constant_channels_go_through_whole_powers(power):
    model = powers(power)
    collapsed = collapse(model, torch.randn(3, 4))
    assert collapsed.get_submodule("body").out_features == 2
    assert same(model, collapsed, (torch.randn(5, 4) * 3,)) < 1e-5


@pytest.mark.parametrize("power", [lambda x: x**0.5, lambda x: 2.0**x, lambda x: x**-1, lambda x: x ** x.abs()])
def test_of_other_powers_nothing_is_known_but_the_network_is(power):
    model = powers(power)
    collapsed = collapse(model, torch.randn(3, 4))
    assert same(model, collapsed, (torch.randn(5, 4),)) < 1e-5
