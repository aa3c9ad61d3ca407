import itertools

import pytest
import torch
from torch import nn

from reflow_lightning.calibration import Call, NotSupportedError, layer_of

OPTIONS = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"kdim": 3, "vdim": 5},
    {"kdim": 3, "vdim": 5, "bias": False, "batch_first": True},
]
MASK = torch.ones(4, 6, dtype=torch.bool).triu(3)
PADDING = torch.zeros(2, 6, dtype=torch.bool).index_fill(1, torch.tensor([5]), True)
CALLS = [
    {},
    {"need_weights": False},
    {"attn_mask": MASK},
    {"attn_mask": torch.randn(4, 6), "average_attn_weights": False},
    {"key_padding_mask": PADDING, "need_weights": False},
]


def call_of(module, **how):
    sizes = module.embed_dim, module.kdim or module.embed_dim, module.vdim or module.embed_dim
    inputs = [torch.randn(2, steps, size) for steps, size in zip((4, 6, 6), sizes, strict=True)]
    if not module.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    with torch.no_grad():
        return Call(tuple(inputs[:1]), {"key": inputs[1], "value": inputs[2], **how}, module(*inputs, **how))


@pytest.mark.parametrize(("options", "how", "training"), list(itertools.product(OPTIONS, CALLS, [True, False])))
def test_every_map_gives_its_inputs_times_its_weights_and_the_last_gives_the_output(options, how, training):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, **options).train(training)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    layer, call = layer_of(module, "attention"), call_of(module, **how)
    assert [affine.name for affine in layer.maps] == [f"attention.{part}" for part in ("q", "k", "v", "out_proj")]
    for index, (affine, y) in enumerate(zip(layer.maps, layer.outputs(call), strict=True)):
        (x,) = next(iter(layer.inputs(index, call)))
        torch.testing.assert_close(x @ affine.matrix().T + sum(affine.biases), y, rtol=1e-5, atol=1e-5)
        assert affine.can_shift == options.get("bias", True)
    torch.testing.assert_close(y, call.output[0].flatten(0, 1))


def test_the_projections_are_those_that_the_module_uses():
    module = nn.MultiheadAttention(8, 2)
    layer, call = layer_of(module, ""), call_of(nn.MultiheadAttention(8, 2))
    expected = nn.functional.linear(call.args[0], module.in_proj_weight, module.in_proj_bias).flatten(0, 1)
    torch.testing.assert_close(layer.outputs(call)[0], expected[:, :8])


@pytest.mark.parametrize("options", OPTIONS)
def test_a_rescaled_output_projection_scales_the_output(options):
    module = nn.MultiheadAttention(8, 2, **options).eval()
    call = call_of(module)
    gain, shift = torch.rand(8) + 0.5, torch.randn(8)
    affine = layer_of(module, "").maps[3]
    affine.rescale(gain, shift)
    found = module(call.args[0], call.kwargs["key"], call.kwargs["value"])[0]
    torch.testing.assert_close(found, call.output[0] * gain + (shift if affine.can_shift else 0), rtol=1e-5, atol=1e-5)


def test_what_is_computed_anew_leaves_the_module_as_it_is():
    module = nn.MultiheadAttention(8, 2).eval()
    called = []
    module.register_forward_hook(lambda *_: called.append(1))
    call = call_of(module)
    weight = module.out_proj.weight
    list(layer_of(module, "").inputs(3, call))
    assert module.out_proj.weight is weight
    assert called == [1]


def test_added_keys_are_refused():
    with pytest.raises(NotSupportedError, match="attention with add_bias_kv"):
        layer_of(nn.MultiheadAttention(8, 2, add_bias_kv=True), "")
