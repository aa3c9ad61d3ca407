import copy

import pytest
import torch
from scenarios.thinned import outputs, spread, thinned
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from zoo import IMAGES

from reflow_lightning import calibrate
from reflow_lightning.calibration import Moments, batchnorm_targets


def with_batchnorm():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    batches = [torch.randn(64, *IMAGES) + 0.5]
    for norm in (model[1], model[4]):
        norm.momentum = None
        nn.init.uniform_(norm.weight, -2.0, 2.0)
        nn.init.normal_(norm.bias)
    model(batches[0])
    return model.eval(), batches


def folded(model):
    """The same network with its BatchNorm layers folded away."""
    layers = list(model)
    for place in (3, 0):
        layers[place], layers[place + 1] = fuse_conv_bn_eval(layers[place], layers[place + 1]), nn.Identity()
    return nn.Sequential(*layers)


def test_a_network_with_batchnorm_folded_away_needs_no_dense_network():
    dense, batches = with_batchnorm()
    repair = Moments(targets=batchnorm_targets(dense, batches))
    assert not repair.needs_reference(dense)
    torch.testing.assert_close(folded(dense)(batches[0]), dense(batches[0]), rtol=1e-4, atol=1e-4)
    model = thinned(folded(dense))
    with pytest.warns(UserWarning, match="left alone '8': it has no target"):
        result = calibrate(model, batches, repair=repair, max_batches=1)
    assert result.repaired == ("0", "3")
    found = outputs(model, batches)
    for conv, norm in (("0", "1"), ("3", "4")):
        gamma, beta = dense.get_submodule(norm).weight, dense.get_submodule(norm).bias
        torch.testing.assert_close(found[conv].mean(0), beta.detach().double(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(spread(found[conv]), gamma.detach().abs().double(), rtol=0.01, atol=0.01)


def test_with_targets_and_a_dense_network_each_layer_gets_what_there_is():
    dense, batches = with_batchnorm()
    model = thinned(folded(dense))
    repair = Moments(targets=batchnorm_targets(dense, batches))
    result = calibrate(model, batches, repair=repair, reference=folded(copy.deepcopy(dense)), max_batches=1)
    assert result.repaired == ("0", "3", "8")


def test_targets_are_beta_and_the_absolute_value_of_gamma():
    dense, batches = with_batchnorm()
    target = batchnorm_targets(dense, batches)["3"]
    assert torch.equal(target.mean, dense[4].bias.double())
    assert torch.equal(target.std, dense[4].weight.double().abs())


def test_targets_of_batchnorm_layers_without_gamma_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    assert batchnorm_targets(model, [torch.randn(4, 2)]) == {}


def test_the_targets_are_learned_from_the_calls_and_nothing_is_changed():
    class ByKind(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.norm_a, self.norm_b = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm_b(self.b(self.norm_a(self.a(x)).relu()))

    model = ByKind().train()
    nn.init.constant_(model.norm_a.weight, 3)
    before = copy.deepcopy(model.state_dict())
    targets = batchnorm_targets(model, [torch.randn(4, 2)])
    assert set(targets) == {"a", "b"}
    assert targets["a"].std.tolist() == [3, 3]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_targets_need_a_batch():
    with pytest.raises(ValueError, match="gave no batch for finding the targets"):
        batchnorm_targets(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), [])
