import copy

import pytest
import torch
from scenarios.thinned import make, plain, thinned
from torch import nn

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Reconstruct
from reflow_lightning.calibration.layer_calls import by_batch


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


def test_layers_behind_a_norm_that_no_layer_feeds_directly_are_fitted_to_what_it_will_give():
    torch.manual_seed(0)
    blocks = [m for _ in range(4) for m in (nn.Linear(32, 32), nn.ReLU(), nn.BatchNorm1d(32))]
    dense = nn.Sequential(*blocks, nn.Linear(32, 4))
    batches = [torch.randn(256, 32) for _ in range(4)]
    calibrate(dense, batches, max_batches=4)
    wanted = dense.eval()(torch.cat(batches)).detach()
    errors = {}
    for repair in ("batchnorm", "reconstruct"):
        model = copy.deepcopy(dense)
        prune(model, 0.8)
        calibrate(model, batches, repair=repair, reference=dense, max_batches=4)
        found = model.eval()(torch.cat(batches)).detach()
        errors[repair] = float((found - wanted).square().mean() / wanted.var())
    assert errors["reconstruct"] < 0.8 * errors["batchnorm"]


def test_normalising_by_the_batch_leaves_no_trace():
    norm = nn.BatchNorm1d(4).eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with by_batch([norm]):
        assert norm(3 * torch.randn(64, 4) + 1).std() < 1.1
    assert not norm.training
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
