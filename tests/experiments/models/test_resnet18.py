import pytest
import torch
from torch import nn

from reflow_lightning.experiments.models.resnet18 import BasicBlock, ResNet18
from reflow_lightning.pruning import select


def test_it_is_torchvisions_network_but_for_the_first_convolution():
    models = pytest.importorskip("torchvision.models")
    model = ResNet18(num_classes=7).eval()
    theirs = models.resnet18(num_classes=7).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images))


@pytest.mark.parametrize(("width", "parameters"), [(64, 11_173_962), (16, 701_466)])
def test_sizes(width, parameters):
    assert sum(p.numel() for p in ResNet18(width=width).parameters()) == parameters


def test_seventeen_rectifiers_each_used_once():
    model = ResNet18(width=2)
    calls = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, args, out: calls.append(module))
    model(torch.zeros(1, 3, 32, 32))
    assert len(calls) == len(set(calls)) == 17


def test_prunable_weights_are_the_convolutions_and_the_classifier():
    assert len(select(ResNet18(width=2))) == 17 + 3 + 1


def test_the_shortcut_has_a_convolution_only_where_the_size_changes():
    model = ResNet18(width=2)
    with_one = [name for name, m in model.named_modules() if isinstance(m, BasicBlock) and m.downsample is not None]
    assert with_one == ["layer2.0", "layer3.0", "layer4.0"]


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 64)])
def test_images_of_any_size(channels, size):
    assert ResNet18(channels, num_classes=4, width=2)(torch.zeros(2, channels, size, size)).shape == (2, 4)
