"""Maps that share a parameter are pruned as if each had a parameter of its own."""

import pytest
import torch
from torch import nn
from zoo.language import make

from reflow_lightning import prune
from reflow_lightning.layers import Inventory
from reflow_lightning.layers.fused import fused_maps
from reflow_lightning.pruning import Masks, Wanda, make_masks

WIDTH, HEADS = 12, 3


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim = HEADS, WIDTH // HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj((q @ k.mT).softmax(-1) @ v)


class Apart(nn.Module):
    """The same network with a layer for each map."""

    def __init__(self, fused):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        with torch.no_grad():
            for layer, weight, bias in zip(self.maps, fused.qkv.weight.chunk(3), fused.qkv.bias.chunk(3), strict=True):
                layer.weight.copy_(weight), layer.bias.copy_(bias)
            self.proj.load_state_dict(fused.proj.state_dict())

    @property
    def maps(self):
        return (self.q, self.k, self.v)

    def forward(self, x):
        return self.proj((self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x))


def pair():
    """Both, with queries that are far smaller than values."""
    torch.manual_seed(0)
    fused = Fused()
    with torch.no_grad():
        fused.qkv.weight.mul_(torch.tensor([0.05, 1.0, 4.0]).repeat_interleave(WIDTH)[:, None])
    return fused, Apart(fused)


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
@pytest.mark.parametrize("min_kept", [0.0, 0.05])
@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "taylor", lambda name, weight: weight.square()])
def test_an_allocation_treats_each_map_as_a_layer(allocation, min_kept, criterion):
    batch = (torch.randn(5, 4, WIDTH), torch.randint(WIDTH, (5, 4)))
    how = {"allocation": allocation, "min_kept": min_kept, "criterion": criterion}
    of_fused, of_apart = (make_masks(model, 0.7, batches=[batch], max_batches=1, **how) for model in pair())
    assert torch.equal(of_fused["qkv.weight"], torch.cat([of_apart[f"{name}.weight"] for name in "qkv"]))
    assert torch.equal(of_fused["proj.weight"], of_apart["proj.weight"])


def test_a_pattern_and_earlier_zeros_stay_in_their_places():
    fused, _ = pair()
    first = prune(fused, 0.5, pattern="2:4", allocation="uniform")
    assert bool((first["qkv.weight"].view(-1, 4).sum(1) <= 2).all())
    second = make_masks(fused, 0.8, previous=first, allocation="lamp")
    assert bool((second["qkv.weight"] <= first["qkv.weight"]).all())


def test_a_warning_names_the_map_in_which_nothing_is_left():
    fused, _ = pair()
    with pytest.warns(UserWarning, match=r"leaves .*qkv\.weight\[queries\]"):
        prune(fused, 0.8)


@pytest.mark.parametrize(
    ("name", "parameter", "sizes"),
    [
        ("GPT2", "transformer.h.0.attn.c_attn.weight", [16, 16, 16]),
        ("GPTNeoX", "gpt_neox.layers.0.attention.query_key_value.weight", [16, 16, 16]),
        ("Bloom", "transformer.h.0.self_attention.query_key_value.weight", [16, 16, 16]),
        ("Phi3", "model.layers.0.self_attn.qkv_proj.weight", [16, 8, 8]),
        ("Phi3", "model.layers.0.mlp.gate_up_proj.weight", [24, 24]),
        ("ModernBert", "model.layers.0.attn.Wqkv.weight", [16, 16, 16]),
        ("ModernBert", "model.layers.0.mlp.Wi.weight", [24, 24]),
    ],
)
def test_the_maps_of_transformers_are_known(name, parameter, sizes):
    pytest.importorskip("transformers")
    model = make(name)
    maps = fused_maps(model, Inventory.of(model))[id(model.get_parameter(parameter))]
    assert [len(part.outputs) for part in maps] == sizes
    assert sorted(torch.cat([part.outputs for part in maps]).tolist()) == list(range(sum(sizes)))


def test_the_queries_of_each_head_are_those_that_the_keys_meet():
    pytest.importorskip("transformers")
    model = make("GPTNeoX")
    attention = model.gpt_neox.layers[0].attention
    weight = attention.query_key_value.weight
    queries, keys, values = fused_maps(model, Inventory.of(model))[id(weight)]
    x = torch.randn(1, 5, 16)
    seen = {}

    def look(module, args, kwargs, output):
        seen["values"] = output[0]

    with torch.no_grad():
        weight[values.outputs] = 0
        attention.query_key_value.bias[values.outputs] = 0
        attention.register_forward_hook(look, with_kwargs=True)
        model(input_ids=torch.randint(60, (1, 5)))
    expected = attention.dense.bias.expand_as(seen["values"])  # without values nothing comes out but the last bias
    torch.testing.assert_close(seen["values"], expected)
    assert x.shape == seen["values"].shape
    assert not {*queries.outputs.tolist()} & {*keys.outputs.tolist()}


@pytest.mark.parametrize(
    "layer", [nn.Linear(4, 13), nn.Linear(4, 8), nn.Conv1d(4, 12, 1)], ids=["no thirds", "two", "convolution"]
)
def test_a_name_alone_makes_no_maps(layer):
    model = nn.ModuleDict({"qkv": layer})
    assert fused_maps(model, Inventory.of(model)) == {}


def test_masks_have_the_names_of_parameters_as_before():
    attention = nn.MultiheadAttention(8, 2)
    masks = prune(attention, 0.5, allocation="uniform", exclude="out_proj.weight")
    assert isinstance(masks, Masks)
    assert list(masks) == ["in_proj_weight"]
    assert [int(part.sum()) for part in masks["in_proj_weight"].chunk(3)] == [32, 32, 32]
    masks = prune(nn.MultiheadAttention(8, 2), 0.5, criterion=Wanda("all"), **_DATA)
    assert list(masks) == ["in_proj_weight", "out_proj.weight"]


_DATA = {
    "batches": [torch.randn(3, 4, 8)],
    "max_batches": 1,
    "forward": lambda model, x: model(x, x, x),
}
