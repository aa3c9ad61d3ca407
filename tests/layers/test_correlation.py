import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reflow_lightning.layers.convolution import patches
from reflow_lightning.layers.correlation import correlates, patch_products


def laid_out(values, outputs, conv):
    """The plain way: all patches, in float64."""
    x = patches(values.double(), conv)[0]
    y = outputs.double().movedim(1, -1).flatten(0, -2)
    one = torch.ones(len(x), 1, dtype=torch.float64)
    products = torch.cat([one, x], 1).T @ torch.cat([one, x, y], 1)
    products[1:, 0] = 0
    return products


@given(
    channels=st.integers(1, 4),
    outputs=st.integers(1, 4),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(st.just("same"), st.tuples(st.integers(0, 4), st.integers(0, 4))),
    mean=st.sampled_from([0.0, 1.0, 1e3]),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=200)
def test_it_is_the_product_of_the_patches(channels, outputs, size, kernel, dilation, padding, mean, seed):
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    sides = reach if padding == "same" else [2 * p for p in padding]
    positions = [s + p - r for s, p, r in zip(size, sides, reach, strict=True)]
    if min(positions) < 1 or max(kernel) == 1:
        return
    torch.manual_seed(seed)
    conv = nn.Conv2d(channels, outputs, kernel, padding=padding, dilation=dilation)
    values, given_outputs = torch.randn(3, channels, *size) + mean, torch.randn(3, outputs, *positions) + mean
    assert correlates(conv)
    expected, found = laid_out(values, given_outputs, conv), patch_products(values, given_outputs, conv)
    count = float(3 * positions[0] * positions[1])
    centred = found[1:, 1:] - torch.outer(found[0, 1 : found.shape[0]], found[0, 1:]) / count
    wanted = expected[1:, 1:] - torch.outer(expected[0, 1 : found.shape[0]], expected[0, 1:]) / count
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3 * max(1.0, mean))
    spread = max(1.0, mean) if any(sides) else 1.0  # zeros beside the image
    torch.testing.assert_close(centred, wanted, rtol=1e-4, atol=1e-3 * spread)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 2, 1),
        nn.Conv2d(2, 2, 3, stride=2),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(2, 2, 3),
        nn.Linear(2, 2),
    ],
)
def test_of_other_layers_the_patches_are_laid_out(conv):
    assert not correlates(conv)


def test_it_is_as_exact_as_products_of_patches_over_many_positions():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    values, outputs = torch.randn(64, 8, 32, 32) + 100, torch.randn(64, 8, 32, 32)
    expected, found = laid_out(values, outputs, conv), patch_products(values, outputs, conv)
    of_patches = patches(values, conv)[0]
    plain = (of_patches.T @ of_patches).double()
    error = (found[1:, 1:73] - expected[1:, 1:73]).abs().max()
    assert error <= (plain - expected[1:, 1:73]).abs().max()
