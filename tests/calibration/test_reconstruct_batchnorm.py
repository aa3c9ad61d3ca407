import copy

import pytest
import torch
from repair_zoo import make, plain, thinned
from torch import nn

from reflow_lightning.calibration import Reconstruct


def of_input(model, name, batches):
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    return torch.cat(seen).movedim(1, -1).flatten(0, -2).double()


@pytest.mark.parametrize(("name", "norm"), [("batchnorm", "1"), ("batchnorm_of_rows", "1"), ("preactivation", "norm1")])
def test_a_batchnorm_that_gets_the_output_of_a_layer_gets_the_statistics_of_its_new_input(name, norm):
    model, dense, batches = make(name, 3)
    result = Reconstruct()(model, batches, plain, dense)
    assert norm in result.repaired
    values, layer = of_input(model, norm, batches), model.get_submodule(norm)
    torch.testing.assert_close(layer.running_mean.double(), values.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.running_var.double(), values.var(0, unbiased=False), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["norm2", "norm3"])
def test_a_batchnorm_after_an_addition_keeps_its_statistics(norm):
    model, dense, batches = make("preactivation", 2)
    old = copy.deepcopy(model.get_submodule(norm).state_dict())
    result = Reconstruct()(model, batches, plain, dense)
    assert norm not in result.repaired
    assert all(torch.equal(old[key], value) for key, value in model.get_submodule(norm).state_dict().items())


def test_a_batchnorm_after_an_activation_in_place_keeps_its_statistics():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()
    model, batch = thinned(copy.deepcopy(dense)), torch.randn(64, 8)
    assert Reconstruct()(model, [batch], plain, dense).repaired == ("0", "3")
    assert torch.equal(model[2].running_var, torch.ones(8))


def test_a_dead_channel_gets_no_negative_variance():
    model, dense, batches = make("batchnorm", 2)
    model[0].weight.data[2] = 0
    Reconstruct()(model, batches, plain, dense)
    assert model[1].running_var[2] == 0
    assert bool((model[1].running_var >= 0).all())
