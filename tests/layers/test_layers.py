import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from reflow_lightning.calibration import AffineMap, Call, layer_of
from reflow_lightning.layers.convolution import patches

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class LayerNorm2d(nn.LayerNorm):
    """Channels first, as the derived norms of vision libraries are."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def called(module, *args, **kwargs):
    with torch.no_grad():
        return Call(args, kwargs, module(*args, **kwargs))


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    small = st.integers(1, 3)
    kernel, dilation = (tuple(draw(small) for _ in range(rank)) for _ in range(2))
    same = draw(st.booleans())
    stride = 1 if same else tuple(draw(small) for _ in range(rank))
    padding = "same" if same else tuple(draw(st.integers(0, 2)) for _ in range(rank))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    groups, inputs, outputs = draw(st.integers(1, 2)), draw(small), draw(small)
    conv = CONVOLUTIONS[rank](
        groups * inputs, groups * outputs, kernel, stride, padding, dilation, groups, True, padding_mode=mode
    )
    sizes = tuple(draw(st.integers(7, 9)) for _ in range(rank))
    return conv.double(), torch.randn(draw(small), groups * inputs, *sizes, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_patches_times_weight_are_the_convolution(drawn):
    conv, x = drawn
    expected = conv(x)
    weight = conv.weight.view(conv.groups, -1, math.prod(conv.weight.shape[1:]))
    found = (patches(x, conv) @ weight.transpose(1, 2)).transpose(0, 1).flatten(1) + conv.bias
    found = found.view(len(x), *expected.shape[2:], -1).movedim(-1, 1)
    torch.testing.assert_close(found, expected)


LAYERS = {
    "linear": (lambda: nn.Linear(4, 6), (5, 4)),
    "linear of one sample": (lambda: nn.Linear(4, 6), (4,)),
    "linear with further dimensions": (lambda: nn.Linear(4, 6), (5, 2, 3, 4)),
    "linear without bias": (lambda: nn.Linear(4, 6, bias=False), (5, 4)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2), (5, 4, 7, 6)),
    "grouped convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2), (5, 4, 7, 6)),
    "depthwise convolution": (lambda: nn.Conv1d(4, 8, 3, groups=4, bias=False), (5, 4, 7)),
    "convolution of one sample": (lambda: nn.Conv1d(4, 6, 3, dilation=2), (4, 7)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (5, 4, 3, 3)),
    "transposed convolution of one sample": (lambda: nn.ConvTranspose1d(4, 6, 3, bias=False), (4, 3)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (5, 4)),
    "LayerNorm of one sample": (lambda: nn.LayerNorm(4), (4,)),
    "LayerNorm with channels last": (lambda: nn.LayerNorm(4), (5, 3, 2, 4)),
    "LayerNorm with channels first": (lambda: LayerNorm2d(4), (5, 4, 4, 4)),
    "LayerNorm without bias": (lambda: nn.LayerNorm(4, bias=False), (5, 4)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (5, 3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (5, 4, 3)),
    "InstanceNorm": (lambda: nn.InstanceNorm2d(4, affine=True), (5, 4, 3, 3)),
    "BatchNorm of rows": (lambda: nn.BatchNorm1d(4), (5, 4)),
    "BatchNorm": (lambda: nn.BatchNorm2d(4), (5, 4, 3, 3)),
}


@pytest.fixture(params=LAYERS)
def module_and_input(request):
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    module = build().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module, torch.randn(shape)


def test_what_the_map_puts_out_is_what_the_module_puts_out(module_and_input):
    module, x = module_and_input
    layer, call = layer_of(module, "layer"), called(module, x)
    (y,) = layer.outputs(call)
    assert y.shape[1] == layer.maps[0].channels == call.output.shape[layer.dim]
    torch.testing.assert_close(y.movedim(1, -1).flatten(), call.output.movedim(layer.dim, -1).flatten())


def test_inputs_times_weights_are_the_outputs_if_they_are_laid_out(module_and_input):
    module, x = module_and_input
    layer, call = layer_of(module, "layer"), called(module, x)
    affine = layer.maps[0]
    if not layer.stages:
        assert not list(layer.inputs(0, call))
        return
    inputs = torch.cat(list(layer.inputs(0, call)), dim=1)
    weights = affine.matrix().view(affine.groups, -1, inputs.shape[-1])
    y = (inputs @ weights.transpose(1, 2)).transpose(0, 1).flatten(1) + sum(affine.biases)
    torch.testing.assert_close(y, layer.outputs(call)[0].movedim(1, -1).reshape(y.shape))


def test_inputs_in_small_pieces_are_the_same(monkeypatch):
    conv, x = nn.Conv2d(2, 3, 3), torch.randn(7, 2, 5, 5)
    whole = list(layer_of(conv, "").inputs(0, called(conv, x)))
    monkeypatch.setattr("reflow_lightning.layers.convolution._PIECE", 1000)
    pieces = list(layer_of(conv, "").inputs(0, called(conv, x)))
    assert len(pieces) > len(whole) == 1
    assert torch.equal(torch.cat(pieces, 1), whole[0])


def test_a_rescaled_layer_puts_out_gain_times_y_plus_shift_and_zeros_stay_zero(module_and_input):
    module, x = module_and_input
    layer, before = layer_of(module, "layer"), called(module, x).output
    module.weight.data.flatten()[::2] = 0
    before, zero = called(module, x).output, module.weight == 0
    affine = layer.maps[0]
    gain, shift = torch.rand(affine.channels, dtype=torch.float64) + 0.5, torch.randn(affine.channels).double()
    affine.rescale(gain, shift)
    shape = [1] * before.ndim
    shape[layer.dim] = affine.channels
    expected = before * gain.view(shape) + (shift.view(shape) if affine.can_shift else 0)
    torch.testing.assert_close(called(module, x).output, expected.float(), rtol=1e-5, atol=1e-5)
    assert bool((module.weight[zero] == 0).all())
    assert affine.can_shift == (getattr(module, "bias", None) is not None)


def test_arguments_may_be_given_by_name():
    linear, x = nn.Linear(3, 2), torch.randn(4, 3)
    assert torch.equal(next(iter(layer_of(linear, "").inputs(0, called(linear, input=x))))[0], x)


def test_a_change_of_weights_and_a_shift_are_added():
    weight, bias = torch.randn(2, 3, 2), torch.randn(2)
    old = weight.clone()
    change = torch.arange(12.0).view(2, 6)
    AffineMap("conv", 2, (weight,), (bias,)).add(change, None)
    torch.testing.assert_close(weight, old + change.view(2, 3, 2))


def test_a_folded_correction_equals_the_one_in_a_hook():
    """The same in functional form: scaled weights give what a scaled output is."""
    conv, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5)
    gain, shift = torch.rand(4) + 0.5, torch.randn(4)
    folded = {"weight": conv.weight * gain.view(-1, 1, 1, 1), "bias": conv.bias * gain + shift}
    expected = functional_call(conv, folded, x)
    layer_of(conv, "").maps[0].rescale(gain, shift)
    torch.testing.assert_close(conv(x), expected)
