import pytest
import torch
from torch.nn import functional

from reflow_lightning.experiments.models.convnext import ConvNeXt, ConvNeXtBlock
from reflow_lightning.pruning import select


def test_a_block_is_the_published_one():
    block = ConvNeXtBlock(width=6, kernel_size=3, layer_scale=0.5)
    x = torch.randn(2, 6, 5, 5)
    spread = functional.conv2d(x, block.depthwise.weight, block.depthwise.bias, padding=1, groups=6)
    centred = spread - spread.mean(1, keepdim=True)
    normed = centred / (spread.var(1, correction=0, keepdim=True) + block.norm.eps).sqrt()
    hidden = functional.gelu(functional.conv2d(normed, block.fc1.weight[..., None, None], block.fc1.bias))
    expected = x + 0.5 * functional.conv2d(hidden, block.fc2.weight[..., None, None], block.fc2.bias)
    torch.testing.assert_close(block(x.movedim(1, -1)).movedim(-1, 1), expected)


@pytest.mark.parametrize(
    ("channels", "image_size", "patch_size", "sizes"), [(1, 8, 1, [8, 4]), (3, 32, 2, [16, 8]), (3, 32, 4, [8, 4])]
)
def test_stages_halve_the_image(channels, image_size, patch_size, sizes):
    model = ConvNeXt(channels, num_classes=7, widths=(4, 8), depths=(1, 2), patch_size=patch_size)
    seen = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[1:])))
    assert model(torch.zeros(2, channels, image_size, image_size)).shape == (2, 7)
    assert seen == [(sizes[0], sizes[0], 4), (sizes[1], sizes[1], 8)]


def test_each_stage_has_blocks_of_its_own_number():
    assert [len(stage) for stage in ConvNeXt(widths=(4, 8, 16), depths=(1, 3, 2)).stages] == [1, 3, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (4, 8), "depths": (1,)}, r"widths=\[4, 8\] and depths=\[1\] must be of one length"),
        ({"kernel_size": 4}, "kernel_size=4 must be odd"),
    ],
)
def test_what_makes_no_network_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**options)


def test_prunable_weights_are_those_of_convolutions_and_linear_layers():
    assert list(select(ConvNeXt(widths=(4, 8), depths=(1, 0)))) == [
        "patches.weight",
        "stages.0.0.depthwise.weight",
        "stages.0.0.fc1.weight",
        "stages.0.0.fc2.weight",
        "downsamples.0.conv.weight",
        "head.weight",
    ]
