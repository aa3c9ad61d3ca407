"""Norms of other libraries: their scales are maps if they act as scales."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning.layers import NotSupportedError, layer_of


def layer_norm_of_timm():
    return pytest.importorskip("timm.layers").LayerNorm(6)


def of_transformers(path):
    pytest.importorskip("transformers")
    module, _, name = path.rpartition(".")
    return getattr(__import__(f"transformers.models.{module}", fromlist=[name]), name)(6)


@pytest.mark.parametrize(
    "path", ["llama.modeling_llama.LlamaRMSNorm", "t5.modeling_t5.T5LayerNorm", "qwen2.modeling_qwen2.Qwen2RMSNorm"]
)
def test_a_norm_of_transformers_is_a_map_that_can_be_rescaled(path):
    check_rescaling(of_transformers(path))


def test_a_norm_of_timm_is_one_too():
    check_rescaling(layer_norm_of_timm())


def check_rescaling(norm):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 2)
    [found] = layer_of(norm, "norm").maps
    values, gain, shift = torch.randn(2, 5, 6), torch.rand(6) + 0.5, torch.randn(6) * found.can_shift
    expected = gain * norm(values) + shift
    found.rescale(gain, shift)
    torch.testing.assert_close(norm(values), expected)


class TwiceNormed(nn.LayerNorm):
    def forward(self, x):
        return functional.relu(super().forward(x))


class Centred(nn.RMSNorm):
    def forward(self, x):
        return functional.rms_norm(x, self.normalized_shape, 1 + self.weight)


def test_a_norm_that_does_more_than_to_scale_is_left_alone_with_the_reason():
    for norm in (TwiceNormed(6), Centred(6), of_transformers("gemma.modeling_gemma.GemmaRMSNorm")):
        with pytest.raises(NotSupportedError, match="does more than to scale and shift: register it"):
            layer_of(norm)


def test_it_is_tried_without_a_trace():
    norm = of_transformers("llama.modeling_llama.LlamaRMSNorm").train()
    before, state = {name: value.clone() for name, value in norm.state_dict().items()}, torch.get_rng_state()
    assert layer_of(norm, "norm").is_norm
    assert norm.training
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
