import pytest
import torch
from torch import nn

from reflow_lightning.experiments.models.wide_resnet import WideBlock, WideResNet
from reflow_lightning.pruning import select


@pytest.mark.parametrize(("depth", "tensors", "weights"), [(28, 29, 23_340_464), (22, 23, 17_147_312)])
def test_prunable_weights(depth, tensors, weights):
    with torch.device("meta"):
        model = WideResNet(depth, width=8)
    prunable = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(prunable) == tensors
    assert sum(weight.numel() for weight in prunable) == weights


def test_all_of_them_are_selected():
    model = WideResNet(10, width=1)
    prunable = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert {id(p) for p in select(model).values()} == {id(p) for p in prunable}


def test_stages_halve_the_image_and_double_the_channels():
    sizes = []
    model = WideResNet(10, width=2)
    for layer in model.layers:
        layer.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[1:])))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sizes == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]


@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (8, 2)])
def test_a_block_adds_its_input_and_activates_before_it_convolves(out_channels, stride):
    block = WideBlock(4, out_channels, stride, dropout=0.0).eval()
    x = torch.randn(2, 4, 6, 6)
    activated = torch.relu(block.bn1(x))
    hidden = torch.relu(block.bn2(block.conv1(activated)))
    shortcut = x if out_channels == 4 else block.shortcut(activated)
    assert torch.allclose(block(x), shortcut + block.conv2(hidden), atol=1e-6)


def test_dropout_works_in_training_only():
    model = WideResNet(10, width=1, dropout=0.5)
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("depth", [4, 20, 27])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth={depth} must be 6 \* blocks \+ 4"):
        WideResNet(depth)
