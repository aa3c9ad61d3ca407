import pytest
import torch

from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.models.mobilenet import InvertedResidual, MobileNetV1, SmallImageMobileNetV2
from reflow_lightning.pruning import select


@pytest.mark.parametrize(
    ("make", "tensors", "weights"), [(MobileNetV1, 28, 4_209_088), (SmallImageMobileNetV2, 58, 2_261_824)]
)
def test_prunable_weights(make, tensors, weights):
    selected = select(make())
    assert len(selected) == tensors
    assert sum(p.numel() for p in selected.values()) == weights


@pytest.mark.parametrize(("stem_stride", "size"), [(2, 4), (1, 8)])
def test_v1_subsamples_five_times_or_four(stem_stride, size):
    model = MobileNetV1(width=0.25, num_classes=7, stem_stride=stem_stride)
    sizes = []
    model.stage3.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[1:])))
    assert model(torch.zeros(1, 3, 128, 128)).shape == (1, 7)
    assert sizes == [(256, size, size)]


def test_a_width_multiplies_all_channels():
    weights = select(MobileNetV1(width=0.5))
    full = select(MobileNetV1())
    assert all(2 * w.shape[0] == full[name].shape[0] for name, w in weights.items() if name != "fc.weight")


def test_v2_keeps_more_of_small_images():
    model = SmallImageMobileNetV2()
    sizes = []
    model.layers.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[1:])))
    model(torch.zeros(1, 3, 32, 32))
    assert sizes == [(320, 4, 4)]


@pytest.mark.parametrize(
    ("channels", "stride", "shortcut"), [((8, 8), 1, "Identity"), ((8, 16), 1, "Sequential"), ((8, 16), 2, "NoneType")]
)
def test_a_shortcut_is_there_where_the_size_stays(channels, stride, shortcut):
    block = InvertedResidual(*channels, stride, expansion=6).eval()
    assert type(block.shortcut).__name__ == shortcut
    x = torch.randn(2, channels[0], 8, 8)
    hidden = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))))
    projected = block.bn3(block.conv3(hidden))
    expected = projected if block.shortcut is None else projected + block.shortcut(x)
    assert torch.allclose(block(x), expected, atol=1e-6)


@pytest.mark.data
def test_public_weights_load(real_data):
    model = MobileNetV1(width=0.25)
    before = model.fc.weight.clone()
    load_weights(model, real_data / "weights" / "mobilenetv1_0.25_imagenet.pth.tar")
    assert not torch.equal(model.fc.weight, before)
