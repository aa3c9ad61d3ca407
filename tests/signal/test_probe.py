import pytest
import torch
from helpers import images
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning.signal.probe import listening, signal_layers


def test_batchnorm_layers_and_what_none_follows():
    assert signal_layers(small_net()) == ["1", "5", "9"]


def test_without_batchnorm_every_weighted_layer():
    assert signal_layers(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.GRU(3, 4))) == ["0", "2"]


def test_patterns_choose_layers():
    assert signal_layers(small_net(), ("2", "6")) == ["2", "6"]
    with pytest.raises(ValueError, match="'relu' matches no module"):
        signal_layers(small_net(), "relu")


def test_a_model_without_layers_is_an_error():
    with pytest.raises(ValueError, match="no layer to measure"):
        signal_layers(nn.ReLU())


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
