import pytest
import torch

from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.pruning import select


@pytest.mark.parametrize(
    ("blocks", "depth", "parameters"), [(3, 20, 269_722), (5, 32, 464_154), (9, 56, 853_018), (18, 110, 1_727_962)]
)
def test_depths_and_sizes(blocks, depth, parameters):
    model = ResNet(blocks)
    assert len(select(model)) == depth
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_prunable_weights_of_resnet32():
    assert sum(p.numel() for p in select(ResNet(5)).values()) == 461_872


def test_any_image_size():
    assert ResNet(1, in_channels=1, num_classes=4)(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


def test_the_shortcut_has_no_parameters_and_keeps_the_signal():
    block = ResNet(1).layer2[0]
    x = torch.randn(2, 16, 8, 8)
    out = block.shortcut(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.data
@pytest.mark.parametrize(("blocks", "name"), [(3, "resnet20-12fca82f.th"), (5, "resnet32-d509ac18.th")])
def test_public_weights_load(blocks, name, real_data):
    model = ResNet(blocks)
    before = model.linear.weight.clone()
    load_weights(model, real_data / "weights" / name)
    assert not torch.equal(model.linear.weight, before)
