import pytest
import torch

from reflow_lightning.experiments.models.vit import TransformerBlock, VisionTransformer
from reflow_lightning.pruning import select


def attention_by_hand(attention, x):
    """Softmax of scaled products, head by head."""
    projected = x @ attention.in_proj_weight.T + attention.in_proj_bias
    heads = []
    for q, k, v in zip(*(part.chunk(attention.num_heads, -1) for part in projected.chunk(3, -1)), strict=True):
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)
        heads.append(weights @ v)
    return torch.cat(heads, -1) @ attention.out_proj.weight.T + attention.out_proj.bias


def test_a_block_normalises_before_attention_and_before_the_linear_layers_and_adds_both():
    block = TransformerBlock(width=8, heads=2, expansion=3)
    x = torch.randn(4, 5, 8)
    attended = x + attention_by_hand(block.attention, block.norm1(x))
    expected = attended + block.fc2(torch.nn.functional.gelu(block.fc1(block.norm2(attended))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("channels", "image_size", "patch_size"), [(1, 8, 2), (3, 32, 4)])
def test_digits_and_cifar_images(channels, image_size, patch_size):
    model = VisionTransformer(image_size, patch_size, channels, num_classes=7, width=8, heads=2, depth=1)
    assert model(torch.zeros(2, channels, image_size, image_size)).shape == (2, 7)


def test_it_knows_where_a_patch_is_but_only_by_the_positions():
    model = VisionTransformer(8, 4, in_channels=1, width=8, depth=2, heads=2).eval()
    images = torch.randn(2, 1, 8, 8)
    elsewhere = images.roll(4, dims=3)  # whole patches
    assert not torch.allclose(model(elsewhere), model(images), atol=1e-5)
    with torch.no_grad():
        model.positions.zero_()
    torch.testing.assert_close(model(elsewhere), model(images))


def test_patches_that_do_not_cover_the_image_are_refused():
    with pytest.raises(ValueError, match="patch_size=3 must divide image_size=8"):
        VisionTransformer(image_size=8, patch_size=3)


def test_positions_and_norms_are_not_prunable():
    assert list(select(VisionTransformer(depth=1))) == [
        "patches.weight",
        "blocks.0.attention.in_proj_weight",
        "blocks.0.attention.out_proj.weight",
        "blocks.0.fc1.weight",
        "blocks.0.fc2.weight",
        "head.weight",
    ]
