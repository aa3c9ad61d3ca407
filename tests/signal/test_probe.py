import pytest
import torch
from helpers import images
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning.layers import Order, known_layers
from reflow_lightning.signal.measure import learn_order
from reflow_lightning.signal.probe import listening, matching_modules, signal_layers


def layers_of(model, batch):
    return signal_layers(dict(known_layers(model)), learn_order(model, [batch]))


def test_batchnorm_layers_and_what_none_follows():
    assert layers_of(small_net(), images(2)) == ["1", "5", "9"]


def test_without_batchnorm_every_weighted_layer():
    assert layers_of(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.GRU(3, 4)), torch.randn(4, 2, 2)) == ["0", "2"]


def test_patterns_choose_layers():
    assert matching_modules(small_net(), ("2", "6")) == ["2", "6"]
    with pytest.raises(ValueError, match="'relu' matches no module"):
        matching_modules(small_net(), "relu")


def test_a_model_without_layers_is_an_error():
    with pytest.raises(ValueError, match="no layer to measure"):
        signal_layers({}, Order())


@pytest.mark.parametrize("by_kind", [False, True])
def test_what_follows_what_does_not_depend_on_the_order_of_registration(by_kind):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            made = {"conv1": nn.Conv2d(3, 4, 3), "norm1": nn.BatchNorm2d(4)}
            made |= {"conv2": nn.Conv2d(4, 4, 3), "norm2": nn.BatchNorm2d(4), "head": nn.Linear(4, 4)}
            for name in sorted(made, key=lambda name: type(made[name]).__name__ if by_kind else 0):
                self.add_module(name, made[name])

        def forward(self, x):
            x = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
            return self.head(x.mean((2, 3)))

    assert sorted(layers_of(Network(), torch.randn(2, 3, 8, 8))) == ["head", "norm1", "norm2"]


def test_hooks_are_gone_after_an_error():
    model = small_net()
    with pytest.raises(RuntimeError), listening(model, ["1"], lambda name, output: None):
        raise RuntimeError
    assert not any(module._forward_hooks for module in model.modules())


def test_compiled_modules_are_heard():
    model = torch.compile(small_net(), backend="eager")
    model(images(4))
    heard = []
    with listening(model, ["_orig_mod.1"], lambda name, output: heard.append(output.shape)):
        model(images(4))
    assert heard == [(4, 8, 6, 6)]


def test_the_output_of_a_recurrent_layer_is_its_sequence():
    model = nn.Sequential(nn.GRU(3, 4, batch_first=True))
    heard = []
    with listening(model, ["0"], lambda name, output: heard.append(output.shape)):
        model(torch.ones(2, 5, 3))
    assert heard == [(2, 5, 4)]
