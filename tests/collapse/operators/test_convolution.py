"""Transposed convolutions lose channels as others do, wherever the result is the same at every position."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scenarios.wrecked import refusals, same, shake, widths
from torch import nn

from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.collapse.operators.affine import affine, affine_of

KINDS = {1: (nn.ConvTranspose1d, nn.Conv1d, nn.BatchNorm1d), 2: (nn.ConvTranspose2d, nn.Conv2d, nn.BatchNorm2d)}
KINDS[3] = (nn.ConvTranspose3d, nn.Conv3d, nn.BatchNorm3d)


@st.composite
def transposed(draw):
    """A transposed convolution of 4 channels with any options."""
    kind, stride = draw(st.sampled_from(sorted(KINDS))), draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 999)))
    dilation = draw(st.integers(1, 2))
    return KINDS[kind][0](
        4,
        4,
        draw(st.integers(1, 3)),
        stride,
        draw(st.integers(0, 1)),
        draw(st.integers(0, max(stride, dilation) - 1)),
        groups=draw(st.sampled_from([1, 2, 4])),
        bias=draw(st.booleans()),
        dilation=dilation,
    )


@settings(deadline=None, max_examples=60)
@given(layer=transposed(), dead=st.lists(st.integers(0, 3), max_size=3), constant=st.booleans())
def test_a_decoder_does_the_same_without_its_dead_channels(layer, dead, constant):
    kind, conv, norm = KINDS[layer.weight.ndim - 2]
    model = nn.Sequential(conv(3, 4, 1), nn.ReLU(), layer, norm(4), nn.LeakyReLU(), kind(4, 2, 2)).double().eval()
    shake(model)
    with torch.no_grad():
        model[0].weight[dead] = 0
        model[0].bias[dead] = float(constant)
        layer.weight[:, : len(dead)] = 0
    images = torch.randn(2, 3, *[4] * (layer.weight.ndim - 2)).double()
    try:
        model(images)
    except RuntimeError:  # more padding than there is
        assume(False)
    collapsed = collapse(model, images)
    assert refusals(collapsed) == []
    assert same(model, collapsed, (torch.randn_like(images) * 3,)) < 1e-12


@settings(deadline=None, max_examples=30)
@given(layer=transposed())
def test_the_rows_of_its_weight_are_the_output_channels_of_each_group(layer):
    rows = affine(layer)[0]
    assert rows.shape[:2] == (4, 4 // layer.groups)
    assert torch.equal(affine_of(layer).laid_out(rows, layer), layer.weight.detach().double())
    for channel in range(4):
        values = torch.zeros(1, 4, *[3] * (layer.weight.ndim - 2))
        values[:, channel] = 1
        reached = (layer(values) - layer(torch.zeros_like(values))).flatten(2).abs().sum((0, 2)) > 0
        own = channel // (4 // layer.groups)
        assert not reached.view(layer.groups, -1)[torch.arange(layer.groups) != own].any()


def decoder():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 2, 3)).eval()


def test_dead_channels_before_and_after_it_go_and_batchnorm_is_folded_into_it():
    model = decoder()
    with torch.no_grad():
        model[0].weight[:3], model[0].bias[:3] = 0, 0
        model[2].weight[:, :5] = 0
    collapsed = collapse(model, torch.randn(2, 3, 6, 6))
    assert widths(collapsed) == {"0": 5, "2": 3, "5": 2}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in collapsed.modules())
    assert (collapsed.get_submodule("2").in_channels, collapsed.get_submodule("2").out_channels) == (5, 3)
    removed = [row.why for row in collapse_report(collapsed).removed if row.where == "2" and row.what == "channels"]
    assert removed == ["5 of 8 were constant, or read by nobody"]


def test_a_constant_other_than_zero_is_carried_by_one_channel_for_its_taps_differ_by_position():
    model = decoder()
    with torch.no_grad():
        model[0].weight[:3], model[0].bias[:3] = 0, 1.0
    images = torch.randn(2, 3, 6, 6)
    collapsed = collapse(model, images)
    assert widths(collapsed)["0"] == 6
    assert same(model, collapsed, (images,)) < 1e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_a_pointwise_one_takes_constants_into_its_bias(groups):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 1, groups=groups))
    with torch.no_grad():
        model[0].weight[:4], model[0].bias[:4] = 0, 1.0
    collapsed = collapse(model, torch.randn(2, 3, 6, 6))
    assert widths(collapsed)["0"] == (4 if groups == 1 else 8)  # a group goes or stays as a whole
    assert same(model, collapsed, (torch.randn(5, 3, 6, 6),)) < 1e-5
