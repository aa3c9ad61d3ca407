import pytest
import torch
from torch import nn

from reflow_lightning.experiments.models.vgg import VGG
from reflow_lightning.pruning import select


@pytest.mark.parametrize(
    ("depth", "channels"),
    [(3, [4, 8, 16]), (4, [4, 4, 8, 16]), (6, [4, 4, 8, 8, 16, 16]), (7, [4, 4, 4, 8, 8, 16, 16])],
)
def test_a_depth_is_spread_over_three_stages(depth, channels):
    model = VGG(depth, width=4)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == channels
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 2


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (2, 13)])
def test_images_of_any_size(channels, size):
    assert VGG(3, width=4, in_channels=channels, num_classes=7)(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_there_is_no_norm_and_every_layer_has_a_bias():
    layers = [m for m in VGG(6, width=4).modules() if not list(m.children())]
    assert {type(m) for m in layers} == {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Linear}
    assert all(m.bias is not None for m in layers if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_the_signal_of_an_untrained_network_keeps_its_size_with_depth():
    torch.manual_seed(0)
    model = VGG(9, width=32)
    before = model.features[:2](torch.randn(8, 3, 32, 32))
    after = model.features(torch.randn(8, 3, 32, 32))
    assert 0.2 < after.square().mean() / before.square().mean() < 5


def test_fewer_convolutions_than_stages_are_refused():
    with pytest.raises(ValueError, match="depth=2 must be 3 or more"):
        VGG(depth=2)


def test_prunable_weights():
    assert [tuple(p.shape) for p in select(VGG(3, width=4)).values()] == [
        (4, 3, 3, 3),
        (8, 4, 3, 3),
        (16, 8, 3, 3),
        (10, 16),
    ]
