import copy

import pytest
import torch
from torch import nn

from reflow_lightning import Pruner, calibrate
from reflow_lightning.calibration.stale import STALE, staleness
from reflow_lightning.running.forward import default_forward


@pytest.fixture
def young():
    """A network after one epoch at a high learning rate, and its loader."""
    blocks = [layer for inputs in (16, 64) for layer in (nn.Linear(inputs, 64), nn.BatchNorm1d(64), nn.ReLU())]
    model = nn.Sequential(*blocks, nn.Linear(64, 1))
    inputs = 3 + 2 * torch.randn(320, 16)
    loader = list(zip(inputs.split(32), (inputs[:, :1] * inputs[:, 1:2] / 5).split(32), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for batch, target in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), target).backward()
        optimizer.step()
    return model, loader


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_running_averages_that_lag_behind_the_weights_are_stale_until_they_are_re_estimated(young):
    model, loader = young
    before = bits(model.eval())
    assert staleness(model, loader, default_forward) > STALE
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    calibrate(model, loader, repair="batchnorm")
    assert staleness(model, loader, default_forward) < 0.05


@pytest.mark.parametrize("repair", ["reconstruct", "reselect"])
def test_a_repair_that_follows_stale_statistics_says_so(young, repair):
    model, loader = young
    with pytest.warns(UserWarning, match=r"its running averages lag behind its weights.*repair='auto'"):
        Pruner(0.5, repair=repair).apply(copy.deepcopy(model), loader)


def test_a_forward_pass_that_draws_numbers_draws_the_same_ones_again(young):
    model, loader = young
    calibrate(model.eval(), loader, repair="batchnorm")
    state = torch.get_rng_state()
    assert staleness(model, loader, lambda net, batch: net(batch[0]) + 9 * torch.randn(1)) < 0.05
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("repair", ["auto", "moments", "batchnorm"])
def test_other_repairs_do_not_follow_them(young, repair, recwarn):
    model, loader = young
    Pruner(0.5, repair=repair).apply(model, loader)
    assert not [warning for warning in recwarn if "lag behind" in str(warning.message)]


@pytest.mark.parametrize("net", [nn.Linear(4, 2), nn.Sequential(nn.BatchNorm1d(4), nn.Flatten(0))])
def test_without_statistics_or_without_rows_there_is_a_number(net):
    assert staleness(net.eval(), [torch.randn(8, 4)], default_forward) >= 0
