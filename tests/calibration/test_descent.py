"""Steps of Adam that leave zeros as they are."""

import copy

import pytest
import torch
from scenarios.thinned import make, zeros
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from reflow_lightning.calibration.descent import Descent, survivors
from reflow_lightning.layers.find import find_layers


def descent_of(model, lr=0.01, steps=20):
    return Descent(survivors(find_layers(model).known.values()), lr, steps)


@pytest.mark.parametrize("name", ["mlp", "batchnorm", "attention", "gru", "convolutions"])
def test_it_is_adam_with_masks_after_each_step(name):
    model, _, (batch, *_) = make(name)
    plain, kept = copy.deepcopy(model), {key: ~zero for key, zero in zeros(model).items()}
    left = [p[kept[key]] if key in kept else p for key, p in plain.named_parameters()]
    rates = [0.01 * max(1e-3, float(values.square().mean().sqrt())) for values in left]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(plain.parameters(), rates, strict=True)]
    descent, adam = descent_of(model), torch.optim.Adam(groups)
    rate = CosineAnnealingLR(adam, 20)
    for _ in range(3):
        assert descent.step(model(batch).square().mean())
        adam.zero_grad()
        plain(batch).square().mean().backward()
        for key, parameter in plain.named_parameters():
            if key in kept and parameter.grad is not None:
                parameter.grad *= kept[key]
        adam.step()
        rate.step()
    for (key, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=key)
        assert key not in kept or not found[~kept[key]].any()


def test_a_bias_that_is_zero_may_move_and_a_scale_that_is_zero_may_not():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    nn.init.zeros_(model[0].bias)
    model[1].weight.data[0] = 0
    descent = descent_of(model)
    assert descent.step((model(torch.randn(8, 3)) - 1).square().mean())
    assert model[0].bias.all()
    assert (model[1].weight == 0).tolist() == [True, False, False, False]


def test_half_precision_is_stepped_in_float32():
    model = nn.Linear(4, 4).bfloat16()
    before = model.weight.detach().clone()
    descent = descent_of(model, lr=1e-4, steps=1000)
    for _ in range(40):  # each step alone is less than half of what bfloat16 can tell
        descent.step((model(torch.ones(2, 4, dtype=torch.bfloat16)) - 9).square().mean())
    assert ((model.weight - before).abs() > 1e-3).any()


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_without_a_batch_or_with_a_gradient_that_is_not_finite_no_step_is_taken(loss):
    model = nn.Linear(2, 2)
    descent, before = descent_of(model), copy.deepcopy(model.state_dict())
    assert not descent.step(None if loss is None else model(torch.ones(1, 2)).sum() * loss)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_networks_of_weights_of_any_size_are_stepped_alike():
    """A linear network whose first layer has a hundredth of the weights, and its last the hundredfold."""
    plain = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)).double()
    scaled, batch = copy.deepcopy(plain), torch.randn(16, 4).double()
    scaled[0].weight.data /= 100
    scaled[1].weight.data *= 100
    for model in (plain, scaled):
        descent = descent_of(model)
        for _ in range(5):
            descent.step(1e6 * (model(batch) - 1).square().mean())
    torch.testing.assert_close(scaled[0].weight * 100, plain[0].weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(scaled[1].weight / 100, plain[1].weight, rtol=1e-3, atol=1e-5)
